// The report page: ?instance=, ?series= or ?study= with Orthanc's id, an SR's among them.
import { explorer, follow, json, Refused } from "./api.js";
import { byId, make } from "./html.js";
import { imagePage } from "./image.js";
import { studyPage } from "./study.js";

const query = new URLSearchParams(location.search);
const id = ["instance", "series", "study"].map(level => query.get(level)).find(Boolean);

/** Instead of a report: a heading and sentences. */
function instead(heading, ...sentences) {
  byId("title").textContent = heading;
  byId("main").replaceChildren(make("div", { class: "empty", role: "status" }, ...sentences.map(one => make("p", {}, one))));
}

async function start() {
  if (!id) return instead("No image was chosen", "Choose one in the worklist.");
  let found;
  try {
    found = await json(`chest-xray/of/${encodeURIComponent(id)}`);
  } catch (problem) {
    if (!(problem instanceof Refused) || problem.status !== 404) throw problem;
    return instead("Not in the archive", "Orthanc has nothing with this id. It may have been deleted.");
  }
  if (!found.instances.length) {
    const study = make("a", { href: explorer("study", found.study) }, "The study in Orthanc");
    return instead("No chest radiograph", "There is no CR or DX image here, and nothing else is classified.", study);
  }
  if (found.instances.length === 1) imagePage(found.instances[0], found);
  else studyPage(found);
  return null;
}

follow(async () => {
  await start();
  return null;
});
