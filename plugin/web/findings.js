// The findings of one image as bars against the operating point.
import { label, make, ranked, score } from "./html.js";

const OPERATING_POINT = 0.5;

/** A bar from 0 to 1 with a line at the operating point. It says nothing to a screen reader: the number does. */
export function bar(value) {
  const made = make("span", { class: value >= OPERATING_POINT ? "bar hit" : "bar", "aria-hidden": "true" });
  made.style.setProperty("--score", value);
  return made;
}

/** One line for each of these findings, which cannot be chosen. */
export function lines(entries) {
  return make("ul", { class: "findings", role: "list" }, ...entries.map(([name, value]) =>
    make("li", {}, make("span", { class: "name" }, label(name)), bar(value), make("span", { class: "score" }, score(value)))));
}

/**
 * A list of all findings to choose one from. `choose` is called with its label, or '' when none is chosen any more.
 * Returns the element and a function that marks the one which is chosen.
 */
export function chooser(scores, byScore, choose) {
  const buttons = new Map();
  const entries = byScore ? ranked(scores) : Object.entries(scores);
  for (const [name, value] of entries) {
    const reaches = value >= OPERATING_POINT ? "reaches the operating point" : "below the operating point";
    const button = make("button", { type: "button", "aria-pressed": "false", "data-finding": name, title: `${label(name)}: ${score(value)}, ${reaches}` },
      make("span", { class: "name" }, label(name)), bar(value), make("span", { class: "score" }, score(value)),
      make("span", { class: "unseen" }, reaches));
    button.addEventListener("click", () => choose(button.getAttribute("aria-pressed") === "true" ? "" : name));
    buttons.set(name, button);
  }
  const list = make("ul", { class: "findings", role: "list" }, ...[...buttons.values()].map(button => make("li", {}, button)));
  list.addEventListener("keydown", event => {
    const all = [...buttons.values()], to = all.indexOf(document.activeElement) + ({ ArrowDown: 1, ArrowUp: -1 }[event.key] ?? NaN);
    if (all[to]) {
      all[to].focus();
      event.preventDefault();
    }
  });
  const mark = chosen => buttons.forEach((button, name) => button.setAttribute("aria-pressed", String(name === chosen)));
  return { list, mark };
}
