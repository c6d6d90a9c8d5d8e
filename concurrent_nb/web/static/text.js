// @ts-check
// Texts and numbers as people read them. Pure.

const HIDDEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
/** escape sequences of terminals, as far as they go; those that only set a colour */
const ESCAPE = /\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])/g;
const COLOUR = /^\x1b\[[0-9;:]*m$/;
/** characters of a line that are shown */
const LINE_MAX = 2000;

/** @param {string} mark that is hidden otherwise @returns {string} */
function named(mark) {
  const code = mark.charCodeAt(0);
  if (code < 0x20) return { 9: "\\t", 10: "\\n", 13: "\\r" }[code] ?? `\\x${code.toString(16).padStart(2, "0")}`;
  return `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
}

/**
 * Make a text of a task or node safe to show: control characters and marks that change the direction or hide text
 * become visible, and a long text is clipped.
 * @param {unknown} value
 * @param {number} [most] characters that are kept
 * @returns {string}
 */
export function visible(value, most = 200) {
  let text = typeof value === "string" ? value : value === null || value === undefined ? "" : String(value);
  const isLong = text.length > most;
  if (isLong) text = text.slice(0, /[\ud800-\udbff]/.test(text[most - 1]) ? most - 1 : most);
  text = text.replace(HIDDEN, named);
  return isLong ? `${text}\u2026` : text;
}

/**
 * Make what a task printed safe to show: several lines, without escape sequences and what a later part of the line has
 * overwritten. Long lines lose their ends, a long text its beginning.
 * @param {unknown} value
 * @param {number} [most] characters that are kept
 * @param {boolean} [hasColours] keep the escape sequences that set colours
 * @returns {string}
 */
export function visibleLines(value, most = 20_000, hasColours = false) {
  const text = typeof value === "string" ? value : "";
  const kept = (text.length > most ? `\u2026${text.slice(-most)}` : text).replace(/\r\n/g, "\n");
  const clean = kept.replace(ESCAPE, (found) => (hasColours && COLOUR.test(found) ? found : ""));
  const show = (/** @type {string} */ mark) => (mark === "\t" || (hasColours && mark === "\x1b") ? mark : named(mark));
  return clean
    .split("\n")
    .map((line) => {
      const whole = line.replace(/\r+$/, "");
      const last = whole.slice(whole.lastIndexOf("\r") + 1);
      return (last.length > LINE_MAX ? `${last.slice(0, LINE_MAX)}\u2026` : last).replace(HIDDEN, show);
    })
    .join("\n");
}

/** @param {unknown} value @returns {number} the number, or 0 for everything that is none */
export function finite(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

/** @param {number} value @returns {string} `1,234`, `12.3k`, `4.56M` */
export function count(value) {
  const size = Math.abs(value);
  if (size < 10_000) return Math.round(value).toLocaleString("en-US");
  if (size < 1e6) return `${(value / 1e3).toFixed(1)}k`;
  if (size < 1e9) return `${(value / 1e6).toFixed(2)}M`;
  return `${(value / 1e9).toFixed(2)}G`;
}

/** @param {number} value @returns {string} a rate or load with the digits that matter */
export function figure(value) {
  const size = Math.abs(value);
  if (size >= 100 || Number.isInteger(value)) return count(value);
  return size >= 10 ? value.toFixed(1) : value.toFixed(2);
}

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** @param {number} value @returns {string} `3.4 MiB` */
export function bytes(value) {
  let size = Math.max(0, value);
  let unit = 0;
  while (size >= 1000 && unit < BYTE_UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** @param {number} seconds @returns {string} `12 µs`, `3.4 ms`, `5.6 s`, `2:03`, `1:02:03` */
export function duration(seconds) {
  const size = Math.max(0, seconds);
  if (size === 0) return "0 s";
  if (size < 0.001) return `${Math.round(size * 1e6)} µs`;
  if (size < 1) return `${(size * 1e3).toFixed(size < 0.1 ? 1 : 0)} ms`;
  if (size < 60) return `${size.toFixed(1)} s`;
  const whole = Math.round(size);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const days = Math.floor(whole / 86_400);
  if (days > 0) return `${days} d ${Math.floor((whole % 86_400) / 3600)} h`;
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** @param {number} wall_s seconds since 1970 @param {number} [digits] of a second @returns {string} `14:03:20` */
export function clock(wall_s, digits = 0) {
  const date = new Date(wall_s * 1000);
  if (Number.isNaN(date.getTime())) return "";
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const whole = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return digits ? `${whole}.${String(date.getMilliseconds()).padStart(3, "0").slice(0, digits)}` : whole;
}

/** @param {number} share 0 to 1 @returns {string} `42%`; 0% and 100% only for none and all */
export function percent(share) {
  const value = Math.min(1, Math.max(0, share)) * 100;
  if (value > 0 && value < 1) return "<1%";
  return `${value > 99 && value < 100 ? 99 : Math.round(value)}%`;
}
