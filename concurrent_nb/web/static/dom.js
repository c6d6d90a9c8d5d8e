// @ts-check
// Elements without markup: texts of tasks go into text nodes only.

import { visible } from "./text.js";

/**
 * @typedef {(text: string, ...values: (string | number)[]) => string} Translate `%1`, `%2`, ... stand for the values
 */

/** @type {Translate} */
export const plain = (text, ...values) =>
  text.replace(/%(\d)/g, (whole, digit) => String(values[Number(digit) - 1] ?? whole));

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {string} [className] @param {string | (Node | string)[]} [content]
 * @param {Record<string, string>} [attributes]
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, className = "", content = "", attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (typeof content === "string") {
    if (content) made.textContent = content;
  } else made.append(...content);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** @param {string} label @param {() => void} press @param {string} [className] @param {string} [hint] */
export function button(label, press, className = "", hint = "") {
  const made = element("button", `cnb-button ${className}`.trim(), label, { type: "button" });
  if (hint) made.title = hint;
  made.addEventListener("click", press);
  return made;
}

/**
 * Set a text only if it is another one, so that nothing is laid out or announced again.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {Element} node @param {string} name @param {string} value */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/**
 * A cell for a text that may be anything: clipped by style, whole in its hint.
 * @param {HTMLElement} node
 * @param {string} raw
 * @param {number} [most]
 */
export function setForeign(node, raw, most = 120) {
  setText(node, visible(raw, most));
  setAttribute(node, "title", visible(raw, 1000));
}

/**
 * Run at most once in a time, and once more after the last call.
 * @param {() => void} action
 * @param {number} every_ms
 */
export function throttled(action, every_ms) {
  let last = -Infinity;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const run = () => {
    timer = undefined;
    last = performance.now();
    action();
  };
  const call = () => {
    if (timer !== undefined) return;
    const wait = last + every_ms - performance.now();
    if (wait <= 0) run();
    else timer = setTimeout(run, wait);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}
