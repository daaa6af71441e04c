// `?bundle=...&conformance=1`: what this client answers for every golden frame goes back to the server that sent the
// page. run.py listens there; export/conformance.py judges.

import { goldenFrame } from "./model.js";

/**
 * Ask about every golden frame, and give the answers back.
 *
 * @param {object} model - that is open.
 * @param {object[]} golden - of openBundle.
 */
export async function runConformance(model, golden) {
  const lines = [];
  for (const one of golden) {
    const { decision, probabilities, novelty, ok } = await model.ask(goldenFrame(one));
    lines.push({ file: one.file, decision, probabilities, novelty, ok });
  }
  await giveBack({ lines });
}

/** Send something to the server that sent the page. */
export async function giveBack(what) {
  const url = new URL("answers", location.href);
  const response = await fetch(url, { method: "POST", body: JSON.stringify(what), credentials: "same-origin" });
  if (!response.ok) throw new Error(`nobody listens at ${url.pathname} (${response.status}); run.py does`);
}
