// A bundle's folder, read and verified: nothing of it is used before its manifest and every checksum are right.

const SCHEMA = 3;
const MANIFEST = "manifest.json";
const MODEL = "model.onnx";
const GOLDEN = "golden/golden.json";
const MOST_FRAME = 2 ** 28; // bytes of a golden frame
const BYTES = { uint8: 1, uint16: 2, float32: 4 };
const AGAIN = "export the bundle again with cvtune, or copy the whole folder again";
const TOLD = ["classes", "reading", "window", "task", "thresholds", "limits", "targets"]; // by the model too

/** A folder that is no bundle, or one that is not as it was exported. */
export class BundleError extends Error {
  constructor(message, { problems = [], hint = AGAIN } = {}) {
    super(message);
    this.problems = problems;
    this.hint = hint;
  }
}

/**
 * @typedef {object} Source - where files come from.
 * @property {string} name - for people.
 * @property {(name: string) => Promise<Uint8Array|null>} read - null where there is no such file.
 */

/** Files that a person chose: the folder's own, or those of `bundle/` where the folder is a run. */
export function folderSource(files) {
  const byPath = new Map(files.map(({ path, file }) => [path, file]));
  const roots = [...byPath.keys()]
    .filter((path) => path === MANIFEST || path.endsWith(`/${MANIFEST}`))
    .map((path) => path.slice(0, -MANIFEST.length));
  const depth = (root) => root.split("/").length;
  const nearest = roots.filter((root) => depth(root) <= 3 && (depth(root) < 3 || root.endsWith("/bundle/")));
  if (!nearest.length) {
    const folder = files.length ? files[0].path.split("/")[0] : "this folder";
    throw new BundleError(`${folder} is not a cvtune bundle: it has no ${MANIFEST}`, {
      hint: "choose a folder that `cvtune fit` wrote, for example runs/parts-1/bundle",
    });
  }
  const root = nearest.reduce((best, one) => (depth(one) < depth(best) ? one : best));
  return {
    name: root.replace(/\/$/, "") || "folder",
    read: async (name) => {
      const file = byPath.get(root + name);
      return file ? new Uint8Array(await file.arrayBuffer()) : null;
    },
  };
}

/** Files beside the page, on the server that the page came from and on no other. */
export function servedSource(path) {
  const base = new URL(path.endsWith("/") ? path : `${path}/`, location.href);
  if (base.origin !== location.origin) {
    throw new BundleError(`${path} is on another server`, { hint: "this page reads bundles of its own server only" });
  }
  return {
    name: path,
    read: async (name) => {
      const url = new URL(name.split("/").map(encodeURIComponent).join("/"), base);
      const response = await fetch(url, { cache: "no-store", redirect: "error", credentials: "same-origin" });
      if (response.status === 404) return null;
      if (!response.ok) throw new BundleError(`${name}: the server answers ${response.status}`);
      return new Uint8Array(await response.arrayBuffer());
    },
  };
}

/**
 * Read a bundle and verify it.
 *
 * @param {Source} source - its files.
 * @param {(done: number, of: number) => void} progress - called after each file.
 * @returns the manifest, the model's bytes and name, and the golden frames with their pixels.
 * @throws {BundleError} with all the problems at once.
 */
export async function openBundle(source, progress) {
  const manifest = await readManifest(source);
  const files = await verifiedFiles(source, manifest, progress);
  const name = heated(manifest) ?? MODEL;
  const model = files.get(name);
  const problems = metadataProblems(metadataOf(model, name), manifest);
  if (problems.length) throw new BundleError(`${name} is not the model of this manifest`, { problems });
  return { manifest, model, name, golden: goldenFrames(files, manifest), count: Object.keys(manifest.files).length };
}

/** The model of the same answers that gives a heat map too, where there is one for the same frames. */
function heated({ variants, files }) {
  const fits = ({ heatmap, colour, shape, precision }) =>
    heatmap === true && colour === "rgb" && shape === null && precision === "float32";
  return Object.keys(variants ?? {}).find((name) => name in files && name.endsWith(".onnx") && fits(variants[name]));
}

async function readManifest(source) {
  const data = await source.read(MANIFEST);
  if (!data) {
    throw new BundleError(`${source.name} is not a cvtune bundle: it has no ${MANIFEST}`, {
      hint: "name a folder that `cvtune fit` wrote, for example runs/parts-1/bundle",
    });
  }
  const manifest = parsed(data, MANIFEST);
  if (!isRecord(manifest) || !("schema" in manifest)) {
    throw new BundleError(`${MANIFEST}: not a cvtune manifest, it has no 'schema'`);
  }
  if (manifest.schema !== SCHEMA) {
    const found = `${MANIFEST}: schema ${manifest.schema}`;
    throw new BundleError(`${found}, this page reads schema ${SCHEMA}, bundles that decide`, {
      hint: "fit again with this version of cvtune, or take the page that belongs to the one that exported the bundle",
    });
  }
  const problems = Object.entries(CHECKS).flatMap(([name, [holds, expected]]) =>
    holds(manifest[name], manifest) ? [] : [`${name} = ${JSON.stringify(manifest[name])}: expected ${expected}`],
  );
  if (problems.length) throw new BundleError(`${MANIFEST}: ${counted(problems.length, "wrong value")}`, { problems });
  return manifest;
}

function parsed(data, name) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
  } catch (error) {
    throw new BundleError(`${name}: cannot be read as JSON (${error.message})`);
  }
}

/** Every file of the manifest, read once: what was verified is what is used. */
async function verifiedFiles(source, manifest, progress) {
  const names = Object.keys(manifest.files);
  const files = new Map();
  const problems = [];
  for (const name of names) {
    const data = await source.read(name);
    const found = data && (await sha256(data));
    const wanted = manifest.files[name];
    if (!data) problems.push(`${name}: missing`);
    else if (found !== wanted) {
      problems.push(
        `${name}: changed after the export (sha256 ${found.slice(0, 12)}..., expected ${wanted.slice(0, 12)}...)`,
      );
    } else if (name.endsWith(".onnx") || name.startsWith("golden/")) files.set(name, data);
    progress(files.size + problems.length, names.length);
  }
  if (problems.length) throw new BundleError(`${source.name}: ${counted(problems.length, "problem")}`, { problems });
  return files;
}

async function sha256(data) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const counted = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

// ---- golden frames

function goldenFrames(files, manifest) {
  if (!files.has(GOLDEN)) return [];
  const tree = parsed(files.get(GOLDEN), GOLDEN);
  const frames = tree?.schema === 1 && Array.isArray(tree.frames) ? tree.frames : null;
  if (!frames?.every((one) => isGolden(one, manifest))) throw new BundleError(`${GOLDEN}: no list of golden frames`);
  return frames.map((one) => {
    const data = files.get(one.file);
    if (!data) throw new BundleError(`${one.file}: not in the manifest, so it is not opened`);
    const [height, width] = one.shape;
    if (data.length !== height * width * 3 * BYTES[one.pixels]) {
      throw new BundleError(`${one.file}: ${data.length} bytes, expected ${height} x ${width} x 3 ${one.pixels}`);
    }
    return { ...one, data };
  });
}

function isGolden(one, { classes, task, reading }) {
  const k = classes.length;
  const decision = task === "multi" ? are(one?.decision, Number.isInteger, k) : Number.isInteger(one?.decision);
  return (
    decision &&
    typeof one.file === "string" &&
    one.pixels === reading.pixels &&
    are(one.shape, isWhole, 3) &&
    one.shape[2] === 3 &&
    one.shape[0] * one.shape[1] * 3 * 4 <= MOST_FRAME &&
    are(one.probabilities, Number.isFinite, k) &&
    (one.novelty === null || Number.isFinite(one.novelty))
  );
}

// ---- the manifest's values, as cvtune_edge.manifest checks those that this page uses

const isRecord = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value) => typeof value === "string" && value !== "";
const isWhole = (value) => Number.isInteger(value) && value >= 1;
const isPlace = (value) => Number.isInteger(value) && value >= 0;
const are = (value, holds, n) => Array.isArray(value) && value.length === n && value.every(holds);
const isBox = (value) => value === null || (are(value, isPlace, 4) && value[2] > 0 && value[3] > 0);

function areClasses(value) {
  return Array.isArray(value) && value.length >= 2 && value.every(isText) && new Set(value).size === value.length;
}

function areFiles(value) {
  const inside = (name) =>
    !/[\\:\0]/.test(name) && !name.split("/").some((part) => part === "" || part === "." || part === "..");
  const hashed = ([name, digest]) => inside(name) && typeof digest === "string" && /^[0-9a-f]{64}$/.test(digest);
  return isRecord(value) && MODEL in value && Object.entries(value).every(hashed);
}

function isReading(value) {
  const colour = (one) => isPlace(one) && one <= 255;
  return isRecord(value) && value.pixels in BYTES && are(value.background, colour, 3);
}

function areLimits(value, { classes, task, thresholds }) {
  const k = classes?.length;
  if (!isRecord(value)) return false;
  const { ok, accept, reject, novelty, several } = value;
  const rising = (one, i) => isPlace(one) && one < k && !(one <= ok[i - 1]);
  return (
    are(accept, Number.isFinite, k) &&
    are(reject, Number.isFinite, k) &&
    Array.isArray(ok) &&
    ok.length < k &&
    ok.every(rising) &&
    several === (task === "multi") &&
    !(several && ok.length) &&
    accept.every((low, i) => low <= reject[i]) &&
    (novelty === null || Number.isFinite(novelty)) &&
    (!several || equal(reject, thresholds))
  );
}

const isDistance = (value, { limits }) => (value === null ? typeof limits?.novelty !== "number" : isRecord(value));
const areVariants = (value) => value === undefined || (isRecord(value) && Object.values(value).every(isRecord));

const CHECKS = {
  name: [isText, "a text"],
  classes: [areClasses, "two or more different names"],
  resize: [(value) => ["stretch", "pad", "crop"].includes(value), "stretch, pad or crop"],
  roi: [isBox, "null or x, y, width, height"],
  region: [isBox, "null or x, y, width, height"],
  frame_size: [(value) => value === null || are(value, isWhole, 2), "null or height, width"],
  embedding: [isWhole, "a whole number above 0"],
  files: [areFiles, `the sha256 of ${MODEL} and others by their names inside the folder`],
  reading: [isReading, "pixels, one of uint8, uint16 and float32, and background, three numbers from 0 to 255"],
  task: [(value) => value === "single" || value === "multi", "single or multi"],
  limits: [areLimits, "limits for each class, positions of the good classes, novelty and several"],
  variants: [areVariants, "further models by their files"],
  novelty: [isDistance, "a distance where there is a limit of it"],
};

// ---- what the model says of itself

function metadataProblems(told, manifest) {
  return TOLD.filter((name) => told.has(name)).flatMap((name) => {
    const text = told.get(name);
    const ours = manifest[name] ?? null;
    const same = name === "task" ? text === ours : equal(fromJson(text), ours);
    return same ? [] : [`${name} in the model: ${text}, in the manifest: ${JSON.stringify(ours)}`];
  });
}

function fromJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Whether two trees of JSON say the same, whatever the order of their keys. */
function equal(one, other) {
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return one === other;
  const keys = Object.keys(one);
  const alike = Array.isArray(one) === Array.isArray(other) && keys.length === Object.keys(other).length;
  return alike && keys.every((key) => Object.hasOwn(other, key) && equal(one[key], other[key]));
}

/**
 * The texts of a model by their keys. onnxruntime-web does not hand them out, so they are read here: field 14 of
 * ModelProto (onnx.proto), each a StringStringEntryProto with its key in field 1 and its value in field 2.
 */
function metadataOf(model, name) {
  const found = new Map();
  try {
    for (const [field, value] of fields(model)) {
      if (field !== 14) continue;
      const entry = new Map(fields(value));
      found.set(text(entry.get(1)), text(entry.get(2)));
    }
  } catch (error) {
    throw new BundleError(`${name}: not an ONNX file (${error.message})`);
  }
  return found;
}

const text = (data) => new TextDecoder().decode(data ?? new Uint8Array());

/** The fields of a message of protobuf: number and content; numbers themselves have none. */
function* fields(data) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; factor < 2 ** 63; factor *= 128) {
      if (at >= data.length) throw new Error("it ends too early");
      const byte = data[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("a number without an end");
  };
  while (at < data.length) {
    const tag = varint();
    const kind = tag % 8;
    let length = { 0: 0, 1: 8, 5: 4 }[kind];
    if (kind === 0) varint();
    if (kind === 2) length = varint();
    if (length === undefined || at + length > data.length) throw new Error("damaged");
    yield [Math.floor(tag / 8), kind === 2 ? data.subarray(at, at + length) : undefined];
    at += length;
  }
}
