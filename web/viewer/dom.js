// Making elements. Text goes in as text alone: names of plans and reports are whatever somebody wrote.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function button(text, title, pressed) {
  const made = element("button", { type: "button", textContent: text, title });
  made.addEventListener("click", pressed);
  return made;
}

// New children in the place of the old; the keyboard stays where it was among them.
export function refill(parent, ...children) {
  const place = [...parent.children].indexOf(document.activeElement);
  parent.replaceChildren(...children);
  parent.children[place]?.focus({ preventScroll: true });
}
