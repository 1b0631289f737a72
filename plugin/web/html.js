// Elements and words. What comes from a DICOM file becomes text, never HTML.

/** An element with attributes and with children, which are nodes or texts. */
export function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== undefined && child !== null && child !== ""));
  return made;
}

export const byId = id => document.getElementById(id);

/** Put nodes into an element, unless it has equal ones already: focus and selection stay. */
export function fill(element, ...children) {
  const made = [...make("div", {}, ...children).childNodes], old = element.childNodes;
  if (made.length !== old.length || made.some((node, at) => !node.isEqualNode(old[at]))) element.replaceChildren(...made);
}

const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const hours = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const scores = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const numbers = new Intl.NumberFormat();

/** A DICOM date, 20250131, as milliseconds; NaN if it is none. */
export const time = text => Date.parse(`${text}`.replace(/^(\d{4})\.?(\d\d)\.?(\d\d)$/, "$1-$2-$3"));

export const date = text => (Number.isNaN(time(text)) ? text : dates.format(time(text)));

/** An ISO moment; of today, only the hour. */
export function moment(text) {
  const then = new Date(text);
  if (Number.isNaN(then.getTime())) return "";
  return (then.toDateString() === new Date().toDateString() ? hours : moments).format(then);
}

export const score = value => scores.format(value);
export const number = value => numbers.format(value);
export const count = (many, one, more = `${one}s`) => `${number(many)} ${many === 1 ? one : more}`;
export const asSentence = text => (/[.!?…]$/.test(text) ? text : `${text}.`);
export const label = text => text.replaceAll("_", " ");

/** A DICOM person name, alphabetic=ideographic=phonetic, each Family^Given^Middle^Prefix^Suffix, for a reader. */
export function person(text) {
  const groups = `${text ?? ""}`.split("=").map((group, at) => {
    const [family, given, middle] = group.split("^").map(part => part.trim());
    return [family, [given, middle].filter(Boolean).join(" ")].filter(Boolean).join(at ? " " : ", ");
  });
  const [alphabetic, ideographic] = groups;
  return alphabetic && ideographic ? `${alphabetic} (${ideographic})` : groups.find(Boolean) ?? "";
}

const VIEWS = { PA: "PA", AP: "AP", LL: "Left lateral", RL: "Right lateral", LLD: "Left lateral decubitus", RLD: "Right lateral decubitus" };
export const view = text => VIEWS[text] ?? text ?? "";

export const STATES = { done: "Done", pending: "Waiting", failed: "Failed", skipped: "Skipped" };

export const STAND_IN = "Stand-in weights: random numbers, not a trained model. These scores mean nothing.";

/** A result's highest scores first. */
export const ranked = found => Object.entries(found).sort((a, b) => b[1] - a[1]);
