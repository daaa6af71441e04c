// The graph of a bundle in onnxruntime-web: opened, compared with its contract, asked about frames.

import { BundleError } from "./bundle.js";
import { guarded } from "./decision.js";

const VENDOR = new URL("./vendor/", import.meta.url);
const CLOSE = 0.02; // of a probability: what another processor may differ
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

let runtime; // onnxruntime-web, once

/** onnxruntime-web from `vendor/`, on one thread. It is given its own bytes and the model's, so it asks for nothing. */
async function load() {
  let ort;
  try {
    ort = await import(new URL("ort.wasm.bundle.min.mjs", VENDOR).href);
    const response = await fetch(new URL("ort-wasm-simd-threaded.wasm", VENDOR));
    if (!response.ok) throw new Error(`the server answers ${response.status}`);
    ort.env.wasm.wasmBinary = await response.arrayBuffer();
  } catch (error) {
    throw new BundleError(`onnxruntime-web is not beside this page (${error.message})`, {
      hint: "run `python export/clients/web/build.py` once, and load the page again",
    });
  }
  ort.env.wasm.numThreads = 1; // more want a page that is isolated from all others: headers that not every server sends
  ort.env.logLevel = "error";
  return ort;
}

/** A model that answers; one frame at a time. */
export class Model {
  /**
   * @param {object} bundle - from openBundle.
   * @throws {BundleError} the model cannot be loaded, or does not keep the contract.
   */
  static async open({ manifest, model, name }) {
    runtime ??= load();
    const ort = await runtime.catch((error) => {
      runtime = undefined;
      throw error;
    });
    let session;
    try {
      session = await ort.InferenceSession.create(model, {
        executionProviders: ["wasm"],
        graphOptimizationLevel: "all",
        enableMemPattern: false, // a plan is kept for each size of frame
        logSeverityLevel: 3,
      });
    } catch (error) {
      throw new BundleError(`${name}: onnxruntime-web cannot load it (${firstLine(error)})`);
    }
    const problems = contractProblems(session, manifest);
    if (problems.length) {
      await session.release();
      throw new BundleError(`${name} does not keep the graph contract`, {
        problems,
        hint: "export the bundle again with cvtune; export/CONTRACT.md describes the graph",
      });
    }
    return new Model(ort, session, manifest);
  }

  constructor(ort, session, manifest) {
    this.ort = ort;
    this.session = session;
    this.manifest = manifest;
    this.asked = session.outputNames.filter((name) => name !== "embedding");
    this.version = ort.env.versions.web;
    this.before = Promise.resolve();
  }

  /** Whether it shows where it looks. */
  get heats() {
    return this.asked.includes("heatmap");
  }

  /**
   * The answer for one frame; REVIEW where it is not to be trusted.
   *
   * @param {{width: number, height: number, pixels: ArrayLike<number>}} frame - RGB in C order, of the bundle's type.
   * @throws {Error} onnxruntime-web cannot compute it.
   */
  ask(frame) {
    const answer = this.before.then(() => this.run(frame)); // a session takes one frame at a time
    this.before = answer.catch(() => {});
    return answer;
  }

  async run({ width, height, pixels }) {
    const image = new this.ort.Tensor(this.manifest.reading.pixels, pixels, [1, height, width, 3]);
    const found = await this.session.run({ image }, this.asked);
    const { limits } = this.manifest;
    const decisions = Array.from(found.decision.data, Number);
    const answer = {
      decision: limits.several ? decisions : decisions[0],
      probabilities: Array.from(found.probabilities.data),
      novelty: found.novelty ? found.novelty.data[0] : null,
      ok: found.ok ? Boolean(found.ok.data[0]) : null,
    };
    return { ...guarded(answer, limits), heat: heatOf(found.heatmap) };
  }

  /** Wait for the last answer, and free the memory. */
  async close() {
    await this.before;
    await this.session.release();
  }
}

function heatOf(tensor) {
  if (!tensor || tensor.dims.length !== 3) return null;
  const [, height, width] = tensor.dims;
  return { width, height, values: Float32Array.from(tensor.data) };
}

export const firstLine = (error) => String(error?.message ?? error).split("\n")[0].slice(0, 300);

function contractProblems(session, manifest) {
  const inputs = session.inputMetadata;
  const { pixels } = manifest.reading;
  const problems = [];
  if (session.inputNames.join() !== "image") problems.push(`inputs ${session.inputNames.join(", ")}, expected image`);
  else if (inputs[0].type !== pixels || inputs[0].shape.length !== 4 || inputs[0].shape[3] !== 3) {
    problems.push(`image is ${inputs[0].type} [${inputs[0].shape}], expected ${pixels} [N, H, W, 3]`);
  }
  for (const [name, [type, ...form]] of Object.entries(outputsOf(manifest, session))) {
    const found = session.outputMetadata.find((one) => one.name === name);
    // a width that the exporter left open is a name here
    const open = (width) => typeof width !== "number";
    const fits = found && form.every((width, i) => open(found.shape[i + 1]) || found.shape[i + 1] === width);
    if (!fits || found.type !== type || found.shape.length !== 1 + form.length) {
      const is = found ? `${found.type} [${found.shape}]` : "missing";
      problems.push(`${name} is ${is}, expected ${type} [${["N", ...form].join(", ")}]`);
    }
  }
  return problems;
}

/** Type and widths behind N of everything that the graph has to give. */
function outputsOf({ classes, embedding, limits, novelty }, session) {
  const k = classes.length;
  return {
    decision: ["int64", ...(limits.several ? [k] : [])],
    ...(limits.ok.length || session.outputNames.includes("ok") ? { ok: ["bool"] } : {}),
    probabilities: ["float32", k],
    ...(novelty ? { novelty: ["float32"] } : {}),
    embedding: ["float32", embedding],
  };
}

/** Pixels of a golden frame, little-endian as every browser's own. */
export function goldenFrame({ shape: [height, width], pixels, data }) {
  return { width, height, pixels: new ARRAYS[pixels](data.slice().buffer) };
}

/**
 * Ask about every golden frame.
 *
 * @returns how many were asked about, decisions equal to the lab's, the largest difference of a probability, and the
 *   files of those whose decision or probability is another.
 */
export async function verify(model, golden, progress) {
  const found = { frames: golden.length, equal: 0, worst: 0, wrong: [] };
  for (const [i, one] of golden.entries()) {
    const answer = await model.ask(goldenFrame(one));
    const same = String(answer.decision) === String(one.decision);
    const apart = one.probabilities.reduce((most, p, k) => larger(most, Math.abs(p - answer.probabilities[k])), 0);
    found.equal += same;
    found.worst = larger(found.worst, apart);
    if (!same || !(apart <= CLOSE)) found.wrong.push(one.file);
    await progress(i + 1, golden.length);
  }
  return found;
}

const larger = (one, other) => (other > one || Number.isNaN(other) ? other : one); // NaN stays

/** How this browser answered for the golden frames, in a sentence. */
export function verified({ frames, equal, worst }) {
  if (!frames) return "no golden frames in this bundle";
  const digits = worst ? worst.toExponential(1) : "0";
  return `${equal} of ${frames} golden frames decided as in the lab, largest difference of a probability ${digits}`;
}

/** Refuse a browser that answers otherwise than the lab. */
export function checkVerified(found) {
  if (!found.wrong.length) return;
  throw new BundleError(
    `this browser answers otherwise than the lab: ${verified(found)} (at most ${CLOSE} is allowed); ` +
      `for example ${found.wrong[0]}`,
    { hint: "try another browser or computer, and `cvtune-edge verify` on the same bundle" },
  );
}
