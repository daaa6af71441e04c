// The camera: one picture after the other is asked about, and shown together with its answer.

import { PictureError, readCamera } from "./pixels.js";
import { answerFor, breath, failed, now, present, wipe } from "./stage.js";

const PATIENCE = 2000; // ms without a new answer, after which the last one is wiped
const WANTED = { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: { ideal: "environment" } };
const REFUSALS = {
  NotAllowedError: "the camera may not be used: allow it for this page",
  NotFoundError: "no camera was found",
  NotReadableError: "another program is using the camera",
  OverconstrainedError: "the camera that was chosen is gone",
};

const one = (id) => document.getElementById(id);
let running = null; // the camera's stream

/** Whether a camera is on. */
export const cameraIsOn = () => running !== null;

/** Start a camera, the one that was chosen where there are several. */
export async function startCamera(deviceId = "") {
  if (!now.model || now.closed) return;
  stopCamera();
  const turn = wipe("Starting the camera", "", { kind: "busy" });
  let stream = null;
  try {
    if (!navigator.mediaDevices) throw new PictureError("this browser gives no camera to this page");
    stream = await navigator.mediaDevices.getUserMedia({ video: wanted(deviceId), audio: false });
    if (turn !== now.turn) return stopTracks(stream);
    await play(stream);
    await watch(stream);
  } catch (error) {
    if (turn === now.turn || (stream && stream === running)) cameraFailed(error);
  }
}

function wanted(deviceId) {
  const size = now.manifest.frame_size; // a mask belongs to frames of this size alone
  return {
    ...WANTED,
    ...(size ? { height: { ideal: size[0] }, width: { ideal: size[1] } } : {}),
    ...(deviceId ? { deviceId: { exact: deviceId } } : {}),
  };
}

async function play(stream) {
  running = stream;
  const gone = () => stream === running && cameraFailed(new PictureError("the camera was unplugged or taken away"));
  stream.getVideoTracks()[0].addEventListener("ended", gone);
  button(true);
  one("video").srcObject = stream;
  await one("video").play();
  await listCameras(stream);
}

/** Ask about one picture after the other, until the camera is stopped. */
async function watch(stream) {
  now.answered = performance.now();
  while (running === stream) {
    await newPicture(one("video"));
    if (running !== stream) return;
    const { turn } = now;
    const frame = readCamera(one("video"));
    const answer = await answerFor(frame);
    if (running === stream && turn === now.turn) present(frame, answer, "camera");
    await breath();
  }
}

function newPicture(video) {
  if (!video.requestVideoFrameCallback) return new Promise((resume) => setTimeout(resume, 40));
  return new Promise((resume) => video.requestVideoFrameCallback(resume));
}

/** Stop it; its last picture and answer go. */
export function stopCamera() {
  const stream = running;
  if (!stream) return;
  running = null;
  stopTracks(stream);
  one("video").srcObject = null;
  button(false);
  wipe("No picture yet", "The camera is off.");
}

function cameraFailed(error) {
  stopCamera();
  failed(REFUSALS[error.name] ? new PictureError(REFUSALS[error.name]) : error);
}

const stopTracks = (stream) => stream.getTracks().forEach((track) => track.stop());

function button(on) {
  one("camera").textContent = on ? "Stop camera" : "Start camera";
  one("camera").setAttribute("aria-pressed", String(on));
}

/** Where there are several, let a person choose. Their names are known only once one was allowed. */
async function listCameras(stream) {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const own = stream.getVideoTracks()[0].getSettings().deviceId;
  const options = cameras.map(({ deviceId, label }, i) => {
    const option = document.createElement("option");
    const textContent = label || `camera ${i + 1}`;
    return Object.assign(option, { value: deviceId, textContent, selected: deviceId === own });
  });
  one("cameras").replaceChildren(...options);
  one("cameras-label").hidden = cameras.length < 2;
}

/** A camera that hangs, or a page in the background, must not leave its last answer on the screen. */
export function guardCamera() {
  const wiped = (why) => wipe("No answer", why, { kind: "failed", spoken: `No answer. ${why}` });
  setInterval(() => {
    const shown = running && !one("sheet").hidden;
    if (!shown || performance.now() - now.answered < PATIENCE) return;
    wiped(`the camera gave no picture for ${PATIENCE / 1000} s`);
  }, PATIENCE / 4);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && running) wiped("paused while this page is in the background");
  });
}
