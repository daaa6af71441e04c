// One picture and what is said of it. No answer outlives its picture: whatever begins or fails wipes the card first.

import { largest, undecided } from "./decision.js";
import { paintHeat } from "./heat.js";
import { firstLine } from "./model.js";
import { PictureError, isFaithful, misfit, paint, readPicture } from "./pixels.js";
import { showAnswer, showNothing } from "./show.js";

const INVITATION = "Drop one, choose one, or start the camera.";

const one = (id) => document.getElementById(id);

/** What is open: the model, its manifest, why it takes no pictures (or ""), and whose turn it is. */
export const now = { model: null, manifest: null, closed: "", turn: 0, answered: 0, heat: null };

/** Let the browser paint and listen. */
export const breath = () => new Promise((resume) => setTimeout(resume));

/** Take pictures for a bundle that was checked. */
export async function openStage(model, manifest) {
  Object.assign(now, { model, manifest, closed: await whyClosed(manifest) });
  for (const id of ["choose-picture", "camera"]) one(id).disabled = now.closed !== "";
  one("show-heat").parentElement.hidden = !model.heats;
  one("work").hidden = false;
  wipe();
}

async function whyClosed({ reading: { pixels } }) {
  if (pixels !== "uint8") {
    return (
      `This bundle takes ${pixels} frames. Pictures in a browser have 8 bits, so this page does not take them; ` +
      "the bundle's golden frames were checked."
    );
  }
  if (await isFaithful()) return "";
  return (
    "This browser changes the pixels that a page reads, as a protection against fingerprinting. " +
    "Allow canvas for this page, or take another browser."
  );
}

/** Close what is open: no model, no picture, no answer. */
export async function closeStage() {
  const { model } = now;
  Object.assign(now, { model: null, manifest: null, closed: "" });
  one("work").hidden = true;
  wipe();
  await model?.close();
}

/** Wipe the card and the picture; returns the turn of what comes next. */
export function wipe(word = "No picture yet", why = now.closed || INVITATION, more = {}) {
  one("sheet").hidden = true;
  one("frame").className = "frame empty";
  one("invite").textContent = now.closed ? "No pictures for this bundle" : "Drop a picture here";
  one("picture-facts").textContent = "";
  one("heat-note").textContent = heatNote({});
  now.heat = null;
  showNothing(word, why, more);
  return ++now.turn;
}

/**
 * Decide a file.
 *
 * @param {File} file
 * @param {number} others - files that came with it.
 */
export async function decideFile(file, others = 0) {
  if (!now.model || now.closed) return;
  const turn = wipe("Looking", "", { kind: "busy" });
  await breath();
  try {
    const frame = await readPicture(file, now.manifest.reading.background);
    if (turn !== now.turn) return;
    if (others) frame.notes.push(`${others} more came with it and were not looked at`);
    const answer = await answerFor(frame);
    if (turn === now.turn) present(frame, answer, file.name);
  } catch (error) {
    if (turn === now.turn) failed(error, file.name);
  }
}

/** What the model says of a frame; REVIEW where it cannot say anything. */
export async function answerFor(frame) {
  const { model, manifest } = now;
  const none = (trouble) => ({ ...undecided(manifest.limits, trouble), probabilities: null, heat: null });
  const wrong = misfit(frame, manifest);
  if (wrong) return none(wrong);
  const start = performance.now();
  try {
    const answer = await model.ask(frame);
    return { ...answer, took: performance.now() - start };
  } catch (error) {
    return none(`the model cannot run on ${frame.width} x ${frame.height} pixels (${firstLine(error)})`);
  }
}

/** Show a frame and its answer together. */
export function present(frame, answer, name) {
  const { manifest } = now;
  const { width, height } = frame;
  paint(one("picture"), frame);
  one("picture").setAttribute("aria-label", name);
  one("sheet").style.aspectRatio = `${width} / ${height}`;
  one("sheet").style.width = `min(100%, ${(60 * width) / height}vh)`; // 60 % of the window's height at most
  one("sheet").hidden = false;
  one("frame").className = "frame";
  one("picture-facts").textContent = `${name}, ${width} x ${height} pixels`;
  now.heat = answer.heat;
  if (answer.heat) paintHeat(one("heat-window"), one("heat"), answer.heat, frame, manifest);
  one("heat-note").textContent = heatNote(answer);
  showHeat();
  showAnswer(answer, manifest, frame.notes, answer.took ? `answered in ${answer.took.toFixed(0)} ms` : "");
  now.answered = performance.now();
}

function heatNote({ heat, probabilities }) {
  if (heat) return `Warm: what speaks for ${now.manifest.classes[largest(probabilities)]}.`;
  return now.model && !now.model.heats ? "This bundle gives no heat map." : "";
}

/** Show the heat map, or the picture alone, as a person chose. */
export function showHeat() {
  const shown = Boolean(now.heat) && one("show-heat").checked;
  one("heat-window").hidden = !shown;
  one("sheet").classList.toggle("heated", shown);
}

/** An error in the place of an answer. */
export function failed(error, name = "") {
  const why = error instanceof PictureError ? error.message : `the page failed (${firstLine(error)})`;
  wipe("No answer", name ? `${name}: ${why}` : why, { kind: "failed", spoken: `No answer. ${why}` });
}
