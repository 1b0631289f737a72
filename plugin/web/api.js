// What the pages ask of Orthanc, and how they wait for it.
import { byId } from "./html.js";

/** Orthanc's own address, which need not be the root of its site. */
export const root = new URL("..", import.meta.url);
export const link = path => new URL(path, root).href;
/** A query string. Orthanc does not take + for a space. */
export const encoded = given => new URLSearchParams(given).toString().replaceAll("+", "%20");
export const reportOf = (level, id, more = {}) => link(`chest-xray/report?${encoded({ [level]: id, ...more })}`);
export const explorer = (level, id) => link(`app/explorer.html#${level}?uuid=${encodeURIComponent(id)}`);

/** Orthanc did not give what was asked for. `status` is HTTP's; 0 if there was no answer at all. */
export class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }

  /** Whether to ask again may help. */
  get passing() {
    return this.status === 0 || this.status >= 500;
  }
}

export async function ask(path, options = {}) {
  const answer = await fetch(link(path), { headers: { Accept: "application/json" }, ...options }).catch(() => {
    throw new Refused(0, "Orthanc does not answer.");
  });
  if (answer.ok) return answer;
  if (answer.status === 401 || answer.status === 403) throw new Refused(answer.status, "Your account may not see this. Load the page again to sign in.");
  const said = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, said.error ?? `Orthanc answered ${answer.status} (${said.Message ?? answer.statusText}).`);
}

export const json = async path => (await ask(path)).json();
export const markOf = instance => json(`instances/${encodeURIComponent(instance)}/chest-xray`);
export const again = instance => ask(`instances/${encodeURIComponent(instance)}/chest-xray`, { method: "POST" }).catch(problem => {
  throw problem.status === 404 ? new Refused(404, "This image is no longer in Orthanc.") : problem;
});

/** What is wrong, above everything else on the page; '' when nothing is. */
export function trouble(sentence) {
  const place = byId("trouble");
  if (place.textContent !== sentence) place.textContent = sentence;
  place.hidden = !sentence;
}

const LONGEST = 15000;

/**
 * Repeat a task for as long as somebody looks at the page, and through times in which Orthanc does not answer.
 * The task gives the milliseconds until the next time, or null to end. Returns a function that has it run at once.
 */
export function follow(task) {
  let timer = 0, running = false, wanted = false, ended = false, failures = 0;

  async function run() {
    clearTimeout(timer);
    if (document.hidden) return; // and on when it is looked at again
    if (running) {
      wanted = true;
      return;
    }
    running = true;
    wanted = false;
    const pause = await attempt();
    running = false;
    ended = pause === null;
    if (wanted) run();
    else if (!ended) timer = setTimeout(run, pause);
  }

  async function attempt() {
    try {
      const pause = await task();
      if (failures) trouble("");
      failures = 0;
      return pause;
    } catch (problem) {
      if (!(problem instanceof Refused)) console.error(problem);
      trouble(problem.passing ? `${problem.message} Trying again …` : problem.message);
      failures += 1;
      return problem.passing ? Math.min(LONGEST, 1000 * 2 ** failures) : null;
    }
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (!ended) run();
  });
  run();
  return run;
}
