// The page: a bundle is chosen and checked; then pictures and the camera are asked about, one at a time.

import { BundleError, folderSource, openBundle, servedSource } from "./bundle.js";
import { cameraIsOn, guardCamera, startCamera, stopCamera } from "./camera.js";
import { giveBack, runConformance } from "./conformance.js";
import { Model, checkVerified, firstLine, verified, verify } from "./model.js";
import { showFacts, showRefusal } from "./show.js";
import { breath, closeStage, decideFile, failed, now, openStage, showHeat } from "./stage.js";

const one = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
let opening = 0; // the bundle that was chosen last

// ---- the bundle

/**
 * Check a bundle and take it; what was open before is closed first.
 *
 * @param {() => object} chosen - its source, of bundle.js.
 */
async function open(chosen) {
  const mine = ++opening;
  const wanted = () => {
    if (mine !== opening) throw new Superseded();
  };
  try {
    await close("Checking the bundle", "");
    await take(chosen, wanted);
  } catch (error) {
    if (error instanceof Superseded || mine !== opening) return;
    await close("Bundle refused", "Nothing is decided by it.");
    showRefusal(error instanceof BundleError ? error : { message: `the bundle cannot be read (${firstLine(error)})` });
    document.documentElement.dataset.state = "refused";
    if (asked.has("conformance")) await giveBack({ error: [error.message, ...(error.problems ?? [])].join("; ") });
  }
}

class Superseded extends Error {}

async function take(chosen, wanted) {
  wanted();
  if (!globalThis.crypto?.subtle) throw insecure();
  const bundle = await openBundle(await chosen(), (done, of) => {
    wanted();
    progress(`${done} of ${of} files`, done / of / 2);
  });
  progress("loading onnxruntime-web and the model", 0.5);
  await breath();
  const model = await Model.open(bundle);
  try {
    wanted();
    if (asked.has("conformance")) await sent(model, bundle);
    else await ready(model, bundle, await verifiedGolden(model, bundle, wanted));
  } finally {
    if (now.model !== model) await model.close();
  }
}

function insecure() {
  return new BundleError("this page cannot verify checksums here: the browser allows it on a safe connection only", {
    hint: "open it as http://localhost:PORT/ or http://127.0.0.1:PORT/ on this computer, or by https",
  });
}

async function verifiedGolden(model, { golden }, wanted) {
  const found = await verify(model, golden, async (done, of) => {
    progress(`golden frame ${done} of ${of}`, 0.5 + done / of / 2);
    await breath();
    wanted();
  });
  checkVerified(found);
  return found;
}

function progress(words, share) {
  one("bundle-state").textContent = words;
  one("progress").hidden = false;
  one("progress").value = share;
}

async function ready(model, { manifest, count }, found) {
  const good = manifest.limits.ok.map((k) => manifest.classes[k]).join(", ");
  one("progress").hidden = true;
  one("bundle-name").textContent = manifest.name;
  one("bundle-state").textContent = `${count} of ${count} files as exported; ${verified(found)}.`;
  one("choose-bundle").textContent = "Choose another bundle";
  one("choose-bundle").className = "";
  showFacts([
    [`${manifest.classes.length} classes`, brief(manifest.classes)],
    ["good", good || (manifest.task === "multi" ? "several labels an image" : "none declared")],
    ["exported", `${String(manifest.created).slice(0, 10)} by cvtune ${manifest.cvtune_version}`],
    ["runs on", `onnxruntime-web ${model.version}, one thread`],
  ]);
  await openStage(model, manifest);
  document.documentElement.dataset.state = "ready";
}

const brief = (names) => (names.length <= 12 ? names.join(", ") : `${names.slice(0, 11).join(", ")} ...`);

async function sent(model, { golden }) {
  await runConformance(model, golden);
  one("progress").hidden = true;
  one("bundle-name").textContent = "Conformance";
  one("bundle-state").textContent = `Answers for ${golden.length} golden frames were given back.`;
}

/** No bundle, no picture, no answer; `name` and `state` say what comes in their place. */
async function close(name, state) {
  delete document.documentElement.dataset.state;
  one("bundle").classList.remove("start");
  one("bundle-name").textContent = name;
  one("bundle-state").textContent = state;
  one("choose-bundle").textContent = "Choose bundle folder";
  one("choose-bundle").className = "main";
  for (const id of ["progress", "refused", "about"]) one(id).hidden = true;
  stopCamera();
  await closeStage();
}

// ---- what people do

function decide(files) {
  if (!files.length) return;
  stopCamera();
  decideFile(files[0], files.length - 1);
}

function taken(input) {
  const files = [...input.files];
  input.value = ""; // the same choice again is a change again
  return files;
}

const located = (files) => files.map((file) => ({ path: file.webkitRelativePath || file.name, file }));

function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...transfer.files];
  const folder = entries.find((entry) => entry.isDirectory);
  if (folder) open(async () => folderSource(await filesBelow(folder)));
  else if (now.model) decide(files);
  else open(() => folderSource(located(files)));
}

async function filesBelow(folder, depth = 0) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) return found;
    for (const entry of some) {
      const path = entry.fullPath.replace(/^\//, "");
      if (entry.isFile) found.push({ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) });
      else if (depth < 3) found.push(...(await filesBelow(entry, depth + 1)));
    }
  }
}

function listen() {
  const on = (id, event, act) => one(id).addEventListener(event, act);
  on("choose-bundle", "click", () => one("bundle-files").click());
  on("choose-picture", "click", () => one("picture-file").click());
  on("picture-file", "change", ({ target }) => decide(taken(target)));
  on("bundle-files", "change", ({ target }) => {
    const files = located(taken(target));
    if (files.length) open(() => folderSource(files));
  });
  on("camera", "click", () => (cameraIsOn() ? stopCamera() : startCamera()));
  on("cameras", "change", ({ target }) => startCamera(target.value));
  on("show-heat", "change", showHeat);
  for (const kind of ["error", "unhandledrejection"]) {
    window.addEventListener(kind, (event) => failed(event.reason ?? event.error ?? event));
  }
  guardCamera();
}

function listenForDrops() {
  const carries = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    one("drop").hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) one("drop").hidden = true;
  });
  window.addEventListener("drop", (event) => {
    one("drop").hidden = true;
    if (!carries(event)) return;
    event.preventDefault(); // or the browser would open the file in the place of the page
    dropped(event.dataTransfer);
  });
}

one("choose-bundle").hidden = false;
one("bundle-state").textContent =
  "Choose the folder that cvtune wrote, with model.onnx and manifest.json, or drop it here.";
listen();
listenForDrops();
if (asked.has("bundle")) open(() => servedSource(asked.get("bundle")));
