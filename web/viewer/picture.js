// The picture of a head: what it attends beside its pattern, or in words why there is none.

import { element } from "./dom.js";
import { say } from "./words.js";

export class HeadPicture {
  // `pictureOf(pictures, place)` asks for a head of those that a view tells of, `place` being band, layer and head;
  // `resized()` hears that there is something of another height.
  constructor({ pictureOf, resized }) {
    Object.assign(this, { pictureOf, resized });
    this.root = element("div", { className: "svd-picture", ariaLive: "polite" });
  }

  // `words` tell of the head; of answers to several questions the last one counts.
  async show(pictures, place, words) {
    const wanted = (this.wanted = {});
    if (!this.address) this.#put(say("picture_coming"));
    const { picture, measured, error, nothing } = await this.pictureOf(pictures, place);
    if (this.wanted !== wanted) {
      if (picture) URL.revokeObjectURL(picture);
      return;
    }
    this.clear();
    if (nothing) return this.#put(say("picture_nothing"));
    if (!picture) return this.#put(say("picture_failed", { why: error }));
    this.address = picture;
    const image = element("img", { src: picture, alt: say("picture_alt", { cell: words }) });
    await image.decode().catch(() => {}); // it has its height then
    if (this.address === picture) this.#put(image, ...(measured ? [] : [say("picture_unmeasured")]));
  }

  clear() {
    if (this.address) URL.revokeObjectURL(this.address);
    this.wanted = this.address = null;
    this.root.replaceChildren();
  }

  #put(...parts) {
    this.root.replaceChildren(...parts);
    this.resized();
  }
}
