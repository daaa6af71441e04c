// The heat map over a picture: a small canvas that the browser stretches over what the network saw.

const WARM = [255, 84, 20]; // as in the report
const DENSE = 0.72; // of the colour where the map is hottest: the picture still shows below

/**
 * Where the network's square lies in a frame, and what of it was looked at; both left, top, width, height in pixels.
 *
 * @param {{width: number, height: number}} frame
 * @param {object} manifest
 */
export function placed({ width, height }, { resize, roi, region }) {
  const seen = region ?? roi ?? [0, 0, width, height];
  if (resize === "stretch") return { seen, square: seen };
  const side = resize === "pad" ? Math.max(seen[2], seen[3]) : Math.min(seen[2], seen[3]);
  const square = [seen[0] + (seen[2] - side) / 2, seen[1] + (seen[3] - side) / 2, side, side];
  return { seen, square };
}

/**
 * Show a map, or none.
 *
 * @param {HTMLElement} window - over the frame; cuts off what was not looked at.
 * @param {HTMLCanvasElement} canvas - in it.
 * @param {{width: number, height: number, values: Float32Array}} heat - float32 [h, w], 0 where nothing speaks for it.
 * @param {{width: number, height: number}} frame
 * @param {object} manifest
 */
export function paintHeat(window, canvas, heat, frame, manifest) {
  const { seen, square } = placed(frame, manifest);
  place(window, seen, [0, 0, frame.width, frame.height]);
  place(canvas, square, seen);
  const hottest = heat.values.reduce((most, value) => (value > most ? value : most), 0);
  const image = new ImageData(heat.width, heat.height);
  for (const [i, value] of heat.values.entries()) {
    const share = hottest > 0 && value > 0 ? value / hottest : 0;
    image.data.set([...WARM, Math.round(255 * DENSE * share)], 4 * i);
  }
  canvas.width = heat.width;
  canvas.height = heat.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function place(element, [x, y, width, height], [left, top, wide, high]) {
  element.style.left = `${(100 * (x - left)) / wide}%`;
  element.style.top = `${(100 * (y - top)) / high}%`;
  element.style.width = `${(100 * width) / wide}%`;
  element.style.height = `${(100 * height) / high}%`;
}
