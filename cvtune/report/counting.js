// What limits make of scores, without a page: the rules are those of cvtune_edge.decision, cvtune.evaluation.verdict and
// cvtune.evaluation.rates; tests/report/test_explore_browser.py compares the figures.
"use strict";

const NEVER = 2; // a limit that no score reaches, as in cvtune_edge.decision
const PASS = 0, STOP = 1, LOOK = -1;

// ---- exact limits of a rate (Clopper and Pearson, Biometrika 26, 1934)

// Lanczos, g = 7, nine terms: about 1e-15 relative for x > 0.5
const LANCZOS = [
  0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
  12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
];

function logGamma(x) {
  const t = x + 6.5;
  const sum = LANCZOS.reduce((total, term, k) => total + (k ? term / (x + k - 1) : term), 0);
  return 0.5 * Math.log(2 * Math.PI) + (x - 0.5) * Math.log(t) - t + Math.log(sum);
}

// The continued fraction of the incomplete beta function by Lentz's method (Numerical Recipes, 6.4).
function betaFraction(x, a, b) {
  const kept = (value) => (Math.abs(value) < 1e-300 ? 1e-300 : value);
  let c = 1, d = 1 / kept(1 - ((a + b) * x) / (a + 1)), result = d;
  for (let m = 1; m <= 10000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    let change = 1;
    for (const term of [even, odd]) {
      d = 1 / kept(1 + term * d);
      c = kept(1 + term / c);
      change = c * d;
      result *= change;
    }
    if (Math.abs(change - 1) < 1e-14) break;
  }
  return result;
}

// The regularised incomplete beta function: the probability that Beta(a, b) is at most x.
function betaBelow(x, a, b) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  const scale = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(1 - x));
  const fast = x < (a + 1) / (a + b + 2); // there the fraction converges within about the root of a or b
  return fast ? (scale * betaFraction(x, a, b)) / a : 1 - (scale * betaFraction(1 - x, b, a)) / b;
}

function betaQuantile(level, a, b) {
  let low = 0, high = 1;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (betaBelow(middle, a, b) < level) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

const upper = (k, n, level) => (k < n ? betaQuantile(level, k + 1, n - k) : 1);
const lower = (k, n, level) => (k ? betaQuantile(level, k, n - k + 1) : 0);

// Limits of k of n: the two-sided 95 % interval, and the one-sided limit "at most".
const seen = new Map();
function limitsOf(k, n) {
  const key = `${k}/${n}`;
  if (!seen.has(key)) seen.set(key, { low: lower(k, n, 0.025), high: upper(k, n, 0.975), most: upper(k, n, 0.95) });
  return seen.get(key);
}

// ---- the data

function bytesOf(text) {
  return Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
}

function flagsOf(text, n) {
  const bytes = bytesOf(text);
  return Uint8Array.from({ length: n }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
}

const wholeOf = (text) => text && new Uint16Array(bytesOf(text).buffer);
const scoresOf = (found) =>
  found.f4 === undefined ? new Float64Array(bytesOf(found.f8).buffer) : new Float32Array(bytesOf(found.f4).buffer);

// A question with its numbers unpacked; `steps` are the different scores that a limit can lie between, ascending.
function unpack(question, data) {
  const n = data.images, scores = scoresOf(question.scores);
  const near = scores.filter((_, i) => !data.far[i]).sort();
  return {
    ...question,
    scores,
    miss: flagsOf(question.miss, n),
    alarm: flagsOf(question.alarm, n),
    likely: wholeOf(question.likely),
    steps: near.filter((score, i) => !i || score !== near[i - 1]),
  };
}

// ---- limits as positions of a slider: so many of the different scores lie below

function positionOf(limit, steps) {
  let from = 0, to = steps.length;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (steps[middle] < limit) from = middle + 1;
    else to = middle;
  }
  return from;
}

// Between two scores, not on one; at its ends nothing passes or is stopped.
function limitAt(position, steps) {
  if (position <= 0 || position >= steps.length) return position <= 0 ? 0 : NEVER;
  const below = steps[position - 1], above = steps[position], middle = (below + above) / 2;
  return middle > below ? middle : above;
}

// How far along the curve a limit lies, from 0 to 1; its ends are logits, as in curves.py.
function shareAlong(limit, [first, last]) {
  const odds = limit <= 0 ? first : limit >= 1 ? last : Math.log(limit / (1 - limit));
  return (Math.min(last, Math.max(first, odds)) - first) / (last - first);
}

// As many digits as tell it from 0 and 1.
function limitWords(limit) {
  if (limit <= 0 || limit >= 1) return limit <= 0 ? "0" : limit < NEVER ? "1" : "the end of the scale";
  const digits = 2 - Math.floor(Math.log10(Math.min(limit, 1 - limit)));
  return limit.toFixed(Math.min(12, Math.max(3, digits)));
}

// ---- counting

class Tally {
  counts = new Map();

  // one image more, if it is `of` the kind that the rate is about
  add(key, of, hit) {
    const count = this.counts.get(key) ?? [0, 0];
    if (of) count[1] += 1;
    if (of && hit) count[0] += 1;
    this.counts.set(key, count);
  }

  of(key) {
    return this.counts.get(key) ?? [0, 0];
  }
}

function decisionOf(i, question, state, far) {
  if (far[i]) return LOOK;
  const own = state.own && question.own, score = question.scores[i];
  if (score < (own ? own.low[question.likely[i]] : state.low)) return PASS;
  return score >= (own ? own.high[question.likely[i]] : state.high) ? STOP : LOOK;
}

// What each kind of question counts of one image, by its decision: as in cvtune.evaluation.verdict.
const COUNTS = {
  good(tally, decision, i, question, data) {
    const ok = decision === PASS, ng = decision === STOP, looked = decision === LOOK, defect = question.miss[i] === 1;
    tally.add("escapes", defect, ok);
    tally.add("overkill", !defect, ng);
    tally.add("review", true, looked);
    tally.add("review_defects", defect, looked);
    tally.add("mixed_up", defect && ng, question.likely[i] !== data.truth[i]);
    tally.add(`class-${data.truth[i]}`, true, ok);
    tally.add("effectiveness", !looked, ok !== defect);
    tally.add("miss", defect && !looked, ok);
    tally.add("false_alarm", !defect && !looked, ng);
  },
  sort(tally, decision, i, question, data) {
    const looked = decision === LOOK, wrong = question.alarm[i] === 1;
    tally.add("errors", !looked, wrong);
    tally.add("review", true, looked);
    tally.add(`class-${data.truth[i]}`, !looked, wrong);
    tally.add(`cover-${data.truth[i]}`, true, !looked);
  },
  labels(tally, decision, i, question) {
    const looked = decision === LOOK, has = question.miss[i] === 1;
    tally.add("escapes", has, decision === PASS);
    tally.add("overkill", !has, decision === STOP);
    tally.add("review", true, looked);
    tally.add("review_defects", has, looked);
  },
};

// Cohen's kappa of OK and NG among the images that were decided; null where only one of them occurs.
function kappaOf(tally) {
  const [missed, defective] = tally.of("miss"), [alarms, good] = tally.of("false_alarm");
  const n = defective + good, stopped = defective - missed + alarms;
  const apart = good * stopped + defective * (n - stopped); // n times what would be told apart by chance
  return apart ? 1 - (n * (missed + alarms)) / apart : null;
}
