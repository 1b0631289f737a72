// Which viewers this Orthanc has, and where they show a study.
import { json, link } from "./api.js";

const VIEWERS = {
  "stone-webviewer": ["Stone Web Viewer", uid => `stone-webviewer/index.html?study=${uid}`],
  ohif: ["OHIF", uid => `ohif/viewer?StudyInstanceUIDs=${uid}`],
  "orthanc-explorer-2": ["Orthanc Explorer 2", uid => `ui/app/#/filtered-studies?StudyInstanceUID=${uid}&expand=study`],
};

/** [name, address] of each viewer that can show this study. */
export async function viewersOf(studyInstanceUID) {
  const plugins = await json("plugins").catch(() => []); // an account may be forbidden to ask
  return plugins.filter(name => name in VIEWERS && studyInstanceUID).map(name => {
    const [title, path] = VIEWERS[name];
    return [title, link(path(encodeURIComponent(studyInstanceUID)))];
  });
}
