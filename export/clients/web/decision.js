// What a decision is called, and what is no decision: the words of cvtune_edge.decision, in the browser.

export const REVIEW = -1;
const SEPARATOR = ";"; // between the labels of one image

/**
 * @typedef {object} Limits - `limits` of the manifest.
 * @property {number[]} ok - positions of the good classes.
 * @property {number[]} accept - K limits.
 * @property {number[]} reject - K limits.
 * @property {number|null} novelty - distance beyond which an image goes to REVIEW.
 * @property {boolean} several - whether an image may have several labels.
 */

/**
 * @typedef {object} Answer - of the graph, for one frame.
 * @property {number|number[]} decision - number of a class or -1; of several labels K of 1, 0 and -1.
 * @property {number[]} probabilities - K.
 * @property {number|null} novelty - null where the graph gives no distance.
 * @property {boolean|null} ok - null where no class is good.
 * @property {string} trouble - why the answer is not to be trusted; empty for a sound one.
 */

/** A number of three significant digits, as Python's format(x, ".3g") writes it. */
export function short(x) {
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "nan" : x > 0 ? "inf" : "-inf";
  const [digits, power] = x.toExponential(2).split("e");
  const exponent = Number(power);
  const plain = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (exponent >= -4 && exponent < 3) return plain(x.toFixed(2 - exponent));
  return `${plain(digits)}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
}

/** Whether a distance is beyond the limit, or no number. */
export function isStrange(novelty, limits) {
  return limits.novelty !== null && novelty !== null && !(novelty <= limits.novelty);
}

/** A decision in words: OK, "NG (dent)", a class, REVIEW; of several labels those that the image has. */
export function said(decision, limits, classes) {
  if (limits.several) {
    const marks = new Map([[1, ""], [REVIEW, "?"]]);
    const told = classes.flatMap((name, k) => (marks.has(decision[k]) ? [name + marks.get(decision[k])] : []));
    return told.join(SEPARATOR);
  }
  if (decision === REVIEW) return "REVIEW";
  const name = classes[decision];
  return !limits.ok.length ? name : limits.ok.includes(decision) ? "OK" : `NG (${name})`;
}

/** Why a person should look; empty where nobody need. */
export function reason(answer, limits, classes) {
  const { decision, probabilities, novelty } = answer;
  if (![decision].flat().includes(REVIEW)) return "";
  if (answer.trouble) return answer.trouble;
  if (isStrange(novelty, limits)) {
    return `never seen: distance ${short(novelty)}, known images are within ${short(limits.novelty)}`;
  }
  const between = (what, k) =>
    `between the limits: ${what}, no below ${short(limits.accept[k])}, yes from ${short(limits.reject[k])}`;
  if (limits.several) {
    const unsure = decision.flatMap((one, k) => (one === REVIEW ? [k] : []));
    return unsure.map((k) => between(`${classes[k]} ${short(probabilities[k])}`, k)).join("; ");
  }
  if (limits.ok.length) {
    const { score, likely } = defect(probabilities, limits.ok);
    return between(`a defect ${short(score)}`, likely);
  }
  const likely = largest(probabilities);
  return `not sure enough: ${classes[likely]} ${short(probabilities[likely])}, needs ${short(limits.reject[likely])}`;
}

/** How probable any class is that is not good, and which of them is the most probable. */
export function defect(probabilities, ok) {
  const rest = probabilities.map((share, k) => (ok.includes(k) ? -1 : share));
  const score = rest.reduce((sum, share) => (share === -1 ? sum : sum + share), 0);
  return { score, likely: largest(rest) };
}

/** The position of the largest, the first of equals. */
export function largest(values) {
  return values.reduce((best, value, k) => (value > values[best] ? k : best), 0);
}

/** An answer as it is, or REVIEW with its trouble where it cannot be trusted: what is not known is never OK. */
export function guarded(answer, limits) {
  const trouble = troubleOf(answer, limits);
  return trouble ? { ...answer, ...undecided(limits, trouble) } : { ...answer, trouble: "" };
}

/** REVIEW, because of some trouble. */
export function undecided(limits, trouble) {
  const k = limits.reject.length;
  return { decision: limits.several ? Array(k).fill(REVIEW) : REVIEW, ok: limits.ok.length ? false : null, trouble };
}

function troubleOf({ decision, probabilities, novelty, ok }, limits) {
  const k = limits.reject.length;
  const [lowest, highest] = limits.several ? [REVIEW, 1] : [REVIEW, k - 1];
  const decisions = [decision].flat();
  const formed =
    probabilities.length === k &&
    decisions.length === (limits.several ? k : 1) &&
    decisions.every((one) => Number.isInteger(one) && one >= lowest && one <= highest);
  if (!formed) return "the model answers in another form than its contract says";
  if (!probabilities.every(Number.isFinite) || Number.isNaN(novelty)) {
    return "the model answers with numbers that are not finite";
  }
  if (isStrange(novelty, limits) && decisions.some((one) => one !== REVIEW)) {
    return `the model decides at a distance of ${short(novelty)}, beyond its own limit ${short(limits.novelty)}`;
  }
  const good = limits.ok.length ? limits.ok.includes(decision) : null;
  return ok === good ? "" : "the model contradicts itself: its decision and its OK do not agree";
}
