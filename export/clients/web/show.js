// The decision on the screen. Names come from the user's disk: they go into the page as text, never as markup.

import { REVIEW, defect, isStrange, reason, said, short } from "./decision.js";

const MOST = 10; // classes shown one by one
const FULL = 1.5; // limits of distance that fill a bar

const one = (id) => document.getElementById(id);
const digits = (share) => (share > 0 && share < 0.0005 ? "< 0.001" : share.toFixed(3));

function make(tag, name, ...parts) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...parts);
  return made;
}

/** A name in its own direction of writing. */
export const named = (name) => make("bdi", "", name);

/** An empty card with a word on it, or an error in the place of an answer. */
export function showNothing(word, why = "", { spoken = "", kind = "none" } = {}) {
  headline(word, kind);
  one("reason").textContent = why;
  one("numbers").hidden = true;
  one("took").textContent = "";
  speak(spoken);
}

/**
 * An answer.
 *
 * @param {object} answer - of Model.ask, or of `undecided` alone where there is none.
 * @param {object} manifest
 * @param {string[]} notes - what was changed in reading the picture.
 * @param {string} took - how long it took, for people.
 */
export function showAnswer(answer, manifest, notes, took) {
  const { limits, classes } = manifest;
  const words = said(answer.decision, limits, classes);
  const why = answer.probabilities ? reason(answer, limits, classes) : answer.trouble;
  const kind = kindOf(answer, limits);
  headline(limits.several && !words ? "No label" : words.replaceAll(";", ", "), kind);
  one("reason").textContent = why;
  one("took").textContent = [took, ...notes].filter(Boolean).join("; ");
  one("numbers").hidden = !answer.probabilities;
  if (answer.probabilities) showNumbers(answer, manifest);
  speak(`Decision: ${words || "no label"}. ${kind === "review" ? "A person has to look." : ""}`);
}

function kindOf({ decision, ok }, limits) {
  if ([decision].flat().includes(REVIEW)) return "review";
  if (!limits.ok.length) return "plain";
  return ok === true ? "good" : "bad";
}

const MARKS = { good: "\u2713", bad: "\u2715", review: "?", plain: "\u2022", failed: "!", none: "", busy: "" };

function headline(words, kind) {
  one("decision").className = `decision ${kind}`;
  one("mark").textContent = MARKS[kind];
  one("said").replaceChildren(named(words));
}

/** Tell a screen reader, and only what is new: a camera gives ten answers a second. */
function speak(words) {
  if (one("spoken").textContent !== words) one("spoken").textContent = words;
}

// ---- numbers

function showNumbers(answer, manifest) {
  one("shares").replaceChildren(...shareRows(answer, manifest));
  one("distance").replaceChildren(...distanceRow(answer, manifest.limits));
  const none = "This bundle measures no distance: it cannot tell what it has never seen.";
  one("distance-note").textContent = answer.novelty === null ? none : "";
}

function shareRows({ decision, probabilities }, { limits, classes }) {
  const order = classes.map((_, k) => k);
  const few = classes.length <= MOST;
  const listed = few ? order : order.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, MOST);
  const rows = listed.map((k) => {
    const own = limits.several ? decision[k] === 1 : decision === k;
    return row(classes[k], probabilities[k], { own, ...marksOf(k, decision, limits) });
  });
  if (limits.ok.length && classes.length - limits.ok.length > 1) {
    const { score, likely } = defect(probabilities, limits.ok);
    rows.unshift(row("any defect", score, { whole: true, ...limitsOf(limits, likely) }));
  }
  if (listed.length < classes.length) {
    const rest = order.slice(MOST).reduce((sum, k) => sum + probabilities[k], 0);
    rows.push(make("li", "rest", `${classes.length - MOST} further classes, ${digits(rest)} together`));
  }
  return rows;
}

/** The limits that stand at a class's bar: those that decide about it. */
function marksOf(k, decision, limits) {
  if (limits.several) {
    const verdict = { 1: "yes", 0: "no", [REVIEW]: "look" }[decision[k]];
    return {
      marks: [limits.accept[k], limits.reject[k]],
      verdict,
      told: `no below ${short(limits.accept[k])}, yes from ${short(limits.reject[k])}`,
    };
  }
  if (!limits.ok.length) {
    const needs = limits.reject[k];
    return needs > 0 ? { marks: [needs], told: `needs ${short(needs)}` } : {};
  }
  const only = limits.reject.length - limits.ok.length === 1;
  return only && !limits.ok.includes(k) ? limitsOf(limits, k) : {};
}

function limitsOf({ accept, reject }, k) {
  const low = short(accept[k]), high = short(reject[k]);
  const told = low === high ? `OK below ${low}, NG from there on` : `OK below ${low}, NG from ${high}, REVIEW between`;
  return { marks: [accept[k], reject[k]], told };
}

function distanceRow({ novelty }, limits) {
  if (novelty === null) return [];
  if (limits.novelty === null) return [row("this picture", null, { text: short(novelty), told: "no limit is set" })];
  const strange = isStrange(novelty, limits);
  const full = FULL * limits.novelty || 1;
  return [
    row("this picture", novelty / full, {
      text: short(novelty),
      marks: [limits.novelty / full],
      told: `${strange ? "never seen: " : ""}known images are within ${short(limits.novelty)}`,
      strange,
    }),
  ];
}

function row(name, share, { text = digits(share), marks = [], told = "", own, whole, strange, verdict } = {}) {
  const kind = [own && "own", whole && "whole", strange && "strange"].filter(Boolean).join(" ");
  const value = make("span", "value", text, ...(verdict ? [make("b", `verdict ${verdict}`, verdict)] : []));
  const parts = [make("span", "name", named(name)), value];
  if (share !== null) parts.push(bar(share, marks));
  if (told) parts.push(make("span", "told", told));
  return make("li", kind, ...parts);
}

function bar(share, marks) {
  const fill = make("i");
  fill.style.width = `${100 * Math.min(1, Math.max(0, share || 0))}%`;
  const made = make("span", "bar", fill);
  made.setAttribute("aria-hidden", "true"); // the numbers stand beside it
  for (const mark of marks.filter((limit) => limit >= 0 && limit <= 1)) {
    const line = make("b");
    line.style.left = `${100 * mark}%`;
    made.append(line);
  }
  return made;
}

// ---- the bundle

/** What was found out about a bundle: pairs of a word and its text. */
export function showFacts(pairs) {
  const rows = pairs.map(([word, text]) => make("div", "", make("dt", "", word), make("dd", "", named(text))));
  one("facts").replaceChildren(...rows);
  one("about").hidden = false;
  one("about").open = matchMedia("(min-width: 761px)").matches; // a phone needs the room for the picture
}

/** Why a bundle is refused. */
export function showRefusal(error) {
  const parts = [make("p", "what", error.message)];
  if (error.problems?.length) {
    parts.push(make("ul", "", ...error.problems.slice(0, MOST).map((line) => make("li", "", line))));
    if (error.problems.length > MOST) parts.push(make("p", "", `and ${error.problems.length - MOST} more`));
  }
  if (error.hint) parts.push(make("p", "hint", `hint: ${error.hint}`));
  one("refused").replaceChildren(...parts);
  one("refused").hidden = false;
}
