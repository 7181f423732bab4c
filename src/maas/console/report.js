// Shows a report, a stored file, in a frame without scripts.

import { getText } from "/assets/api.js";
import { put } from "/assets/dom.js";

const note = document.getElementById("note");
const frame = document.getElementById("frame");
const digest = location.hash.slice(1);

if (/^[0-9a-f]{64}$/.test(digest)) {
  getText(`/api/v1/files/${digest}`).then((page) => {
    frame.srcdoc = page;
    frame.hidden = false;
    note.hidden = true;
  }).catch((error) => put(note, `${error.message} Open it from the list of models in the console.`));
} else {
  put(note, "There is no such report. Open it from the list of models in the console.");
}
