// The panel's look, in the colours of ComfyUI's theme.

const STYLE = `
.svd-panel { box-sizing: border-box; width: 100%; font: 11px/1.4 sans-serif; color: var(--input-text, #ddd); }
.svd-panel [hidden] { display: none !important; }
.svd-head { display: flex; gap: 8px; align-items: center; min-height: 24px; }
.svd-badge { flex: 1; min-width: 0; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; text-align: right; }
.svd-panel button { font: inherit; color: inherit; background: var(--comfy-input-bg, #222); cursor: pointer;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; padding: 1px 6px; }
.svd-panel button:disabled { cursor: default; opacity: 0.8; }
.svd-panel button[aria-pressed="true"] { outline: 2px solid var(--input-text, #ddd); outline-offset: -1px; }
.svd-panel button:focus-visible, .svd-map:focus-visible { outline: 2px solid var(--input-text, #ddd); outline-offset: 2px; }
.svd-said { margin: 2px 0 6px; padding: 4px 6px; border-radius: 4px; background: var(--comfy-input-bg, #222);
  overflow-wrap: anywhere; white-space: pre-line; user-select: text; cursor: text; }
.svd-verdict { font-weight: 600; font-size: 12px; }
.svd-verdict:empty, .svd-advice:empty, .svd-none:empty { display: none; }
.svd-title, .svd-report, .svd-hover, .svd-totals { overflow-wrap: anywhere; margin: 3px 0; user-select: text; }
.svd-title { color: var(--descrip-text, #999); }
/* what changes under the pointer changes no size, so that the page around it keeps its layout */
.svd-hover { height: 4.3em; overflow: auto; contain: strict; }
.svd-layer { width: 136px; height: 24px; contain: strict; display: flex; align-items: center; }
.svd-layer button:focus-visible { outline-offset: -1px; }
.svd-totals { font-weight: 600; }
.svd-report { border-top: 1px solid var(--border-color, #4e4e4e); padding-top: 3px; }
.svd-picture img { box-sizing: border-box; width: 100%; border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; }
.svd-report:empty, .svd-picture:empty, .svd-tabs:empty, .svd-steps:empty { display: none; }
.svd-tabs, .svd-strip, .svd-steps, .svd-actions, .svd-legend { display: flex; gap: 4px; align-items: center; margin: 3px 0; }
.svd-actions, .svd-legend { flex-wrap: wrap; min-height: 20px; }
.svd-strip button { min-width: 0; overflow: hidden; white-space: nowrap; }
.svd-mapbox { position: relative; }
.svd-map { display: block; cursor: crosshair; }
.svd-cursor { position: absolute; left: 0; top: 0; box-sizing: border-box; pointer-events: none;
  border: 2px solid #000; outline: 1px solid #fff; will-change: transform; }
.svd-swatch { width: 14px; height: 14px; vertical-align: -3px; margin-right: 4px; border: 1px solid #888; }
.svd-steps { gap: 1px; }
.svd-steps span:first-child { margin-right: 4px; }
.svd-step { flex: 1 1 0; max-width: 24px; height: 10px; border: 1px solid #888;
  background: linear-gradient(to top, var(--svd-sparse) calc(100% * var(--svd-share)), transparent 0); }
`;

export function addStyle() {
  const style = document.createElement("style");
  style.textContent = STYLE;
  document.head.append(style);
}
