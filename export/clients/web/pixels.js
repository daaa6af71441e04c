// Files and camera pictures as the graph takes them: RGB of 8 bits, rows from the top, nothing scaled.

const KINDS = [
  ["JPEG", [0xff, 0xd8, 0xff]],
  ["PNG", [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ["GIF", [0x47, 0x49, 0x46, 0x38]],
  ["BMP", [0x42, 0x4d]],
  ["TIFF", [0x49, 0x49, 0x2a, 0x00]],
  ["TIFF", [0x4d, 0x4d, 0x00, 0x2a]],
];
const READ = ["JPEG", "PNG", "BMP", "WebP", "GIF"]; // by browsers and in the lab
const END = { JPEG: [0xff, 0xd9], PNG: [0x49, 0x45, 0x4e, 0x44], GIF: [0x3b] };
const TAIL = 4096; // bytes in which a file's end is looked for
const LOOK = { colorSpaceConversion: "none", premultiplyAlpha: "none" }; // values as stored, as OpenCV reads them

/** A file that is no picture, or one that cannot be read; the message is for people. */
export class PictureError extends Error {}

/**
 * A file as a frame. EXIF rotation is applied, transparent pixels are laid over the background.
 *
 * @param {Blob} file - the picture.
 * @param {number[]} background - R, G, B of `reading`.
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array, notes: string[]}>}
 * @throws {PictureError} it cannot be read.
 */
export async function readPicture(file, background) {
  const { kind, notes } = await lookInside(file);
  let picture;
  try {
    picture = await createImageBitmap(file, { ...LOOK, imageOrientation: "from-image" });
  } catch {
    throw new PictureError(`truncated or damaged: cannot be decoded as ${kind}`);
  }
  try {
    const { laid, ...frame } = frameOf(picture, picture.width, picture.height, background);
    if (laid) notes.push(`transparent pixels laid over the colour ${background.join(", ")}`);
    return { ...frame, notes };
  } finally {
    picture.close();
  }
}

async function lookInside(file) {
  const head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  const kind = kindOf(head);
  if (!READ.includes(kind)) {
    const what = kind === "TIFF" ? "a TIFF file, which browsers do not read; cvtune-edge does" : "not an image";
    throw new PictureError(`${what} (expected ${READ.slice(0, -1).join(", ")} or ${READ.at(-1)})`);
  }
  const tail = new Uint8Array(await file.slice(-TAIL).arrayBuffer());
  if (END[kind] && !holds(tail, END[kind])) {
    throw new PictureError(`truncated: the end of the ${kind} file is missing`);
  }
  return { kind, notes: kind === "PNG" && head[24] === 16 ? ["16 bits, read at 8 bits"] : [] };
}

function kindOf(head) {
  const text = String.fromCharCode(...head.subarray(0, 12));
  if (text.startsWith("RIFF") && text.endsWith("WEBP")) return "WebP";
  return KINDS.find(([, magic]) => magic.every((byte, i) => head[i] === byte))?.[0];
}

function holds(data, wanted) {
  return data.some((_, at) => wanted.every((byte, i) => data[at + i] === byte));
}

/**
 * What the camera shows now.
 *
 * @param {HTMLVideoElement} video - that is playing.
 * @throws {PictureError} it shows nothing yet, or is too large.
 */
export function readCamera(video) {
  const { videoWidth: width, videoHeight: height } = video;
  if (!width || !height) throw new PictureError("the camera shows no picture");
  return { ...frameOf(video, width, height, [0, 0, 0]), notes: [] };
}

const canvas = document.createElement("canvas");
const brush = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });

function frameOf(source, width, height, background) {
  canvas.width = width; // clears it
  canvas.height = height;
  brush.drawImage(source, 0, 0);
  let frame = flattened(readBack(width, height), width, height);
  const laid = !frame.opaque;
  if (laid) {
    brush.clearRect(0, 0, width, height);
    brush.fillStyle = `rgb(${background.join(" ")})`;
    brush.fillRect(0, 0, width, height);
    brush.drawImage(source, 0, 0);
    frame = flattened(readBack(width, height), width, height);
    // a canvas that is too large for a browser holds nothing, and says so by this alone
    if (!frame.opaque) throw new PictureError(`this browser cannot hold a picture of ${width} x ${height} pixels`);
  }
  return { width, height, pixels: frame.pixels, laid };
}

function readBack(width, height) {
  try {
    return brush.getImageData(0, 0, width, height).data;
  } catch {
    throw new PictureError(`this browser cannot read a picture of ${width} x ${height} pixels`);
  }
}

/** R, G, B without alpha, and whether every pixel was opaque. */
function flattened(data, width, height) {
  const pixels = new Uint8Array(width * height * 3);
  let opaque = 255;
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    pixels[to] = data[from];
    pixels[to + 1] = data[from + 1];
    pixels[to + 2] = data[from + 2];
    opaque &= data[from + 3];
  }
  return { pixels, opaque: opaque === 255 };
}

/** Whether this browser hands out the pixels that it draws; protection against fingerprinting may change them. */
export async function isFaithful() {
  const side = 64;
  const drawn = new ImageData(side, side);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : (i * 97 + (i >> 8) * 31) % 256;
  const picture = await createImageBitmap(drawn, LOOK);
  const { pixels } = frameOf(picture, side, side, [0, 0, 0]);
  picture.close();
  return pixels.every((value, i) => value === drawn.data[Math.floor(i / 3) * 4 + (i % 3)]);
}

/** A frame on a canvas, for people. */
export function paint(target, { width, height, pixels }) {
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  target.width = width;
  target.height = height;
  target.getContext("2d").putImageData(image, 0, 0);
}

/**
 * Why a frame does not fit a bundle's mask or region of interest; empty where it does.
 *
 * @param {{width: number, height: number}} frame
 * @param {object} manifest
 */
export function misfit({ width, height }, { frame_size: wanted, roi }) {
  const frame = `frame of ${width} x ${height} pixels`;
  if (wanted && (wanted[0] !== height || wanted[1] !== width)) {
    return `${frame}, the bundle's mask expects ${wanted[1]} x ${wanted[0]}`;
  }
  if (roi && (roi[0] + roi[2] > width || roi[1] + roi[3] > height)) {
    return `${frame}, the region of interest ends at ${roi[0] + roi[2]} x ${roi[1] + roi[3]}`;
  }
  return "";
}
