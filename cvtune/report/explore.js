// The sliders of the report: for any limit they show again what was counted for the limits that were chosen.
// Names come from the user's disk: they go into the page as text, never as markup. counting.js stands before this.

// ---- words

const counted = (k, n) => `${k} of ${n}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

// What is told of a rate; of `rest` it is the share without a mistake, which then is at least so much.
function told([k, n], rest) {
  const { low, high, most } = limitsOf(k, n), words = (limit) => (n ? limit : "none to count");
  if (!rest) return { k, n, low, high, bound: most, limit: words(`at most ${percent(most)}`) };
  const limit = words(`at least ${percent(1 - most)}`);
  return { k: n - k, n, low: 1 - high, high: 1 - low, bound: 1 - most, limit };
}

function make(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

// ---- one side of the report

class Explorer {
  constructor(root) {
    this.root = root;
    const data = JSON.parse(document.getElementById(root.dataset.explore).textContent);
    this.data = { ...data, far: flagsOf(data.far, data.images), truth: wholeOf(data.truth) };
    this.questions = new Map();
    this.cards = new Map();
    this.listen();
    this.choose(0);
    for (const part of [this.root, ...this.all("[data-controls]")]) part.hidden = false;
  }

  one(selector) {
    return this.root.querySelector(selector);
  }

  all(selector) {
    return [...this.root.querySelectorAll(selector)];
  }

  listen() {
    for (const slider of this.all("[data-limit]")) {
      slider.addEventListener("input", () => this.slide(slider.dataset.limit, Number(slider.value)));
    }
    for (const field of this.all("[data-number]")) {
      field.addEventListener("change", () => this.type(field.dataset.number, field));
    }
    this.one("[data-together]")?.addEventListener("change", (event) => this.tie(event.target.checked));
    this.one("[data-back]").addEventListener("click", () => this.choose(this.number));
    this.one("[data-question]")?.addEventListener("change", (event) => this.choose(Number(event.target.value)));
    this.one("[data-class]")?.addEventListener("change", () => this.showWall());
  }

  // ---- limits

  // A question, at the limits that were chosen for it.
  choose(number) {
    const { data } = this;
    if (!this.questions.has(number)) this.questions.set(number, unpack(data.questions[number], data));
    this.number = number;
    this.question = this.questions.get(number);
    const { low, high, own, steps } = this.question;
    this.state = { low, high, own: own !== null, together: low === high };
    for (const slider of this.all("[data-limit]")) slider.max = steps.length;
    for (const figure of this.all("[data-curve]")) figure.hidden = Number(figure.dataset.curve) !== number;
    this.show();
  }

  slide(which, position) {
    this.set(which, limitAt(position, this.question.steps));
  }

  // An exact limit; what is no number changes nothing.
  type(which, field) {
    const limit = field.value === "" ? NaN : Number(field.value);
    if (limit >= 0) this.set(which, limit > 1 ? NEVER : limit);
    else this.show();
  }

  // The lower limit never lies above the other: one takes the other with it.
  set(which, limit) {
    const { state } = this;
    state[which] = limit;
    const other = which === "low" ? "high" : "low";
    if (this.data.kind !== "sort" && (state.together || state.low > state.high)) state[other] = limit;
    state.own = false;
    this.show();
  }

  tie(together) {
    this.state.together = together;
    if (together && this.state.low !== this.state.high) this.set("low", this.state.low);
  }

  // ---- figures

  show() {
    this.decide();
    this.showLimits();
    this.showRates();
    this.showStudy();
    this.showMarks();
    this.showWall();
  }

  decide() {
    const { data, question, state } = this, count = COUNTS[data.kind];
    this.tally = new Tally();
    this.decisions = new Int8Array(data.images);
    for (let i = 0; i < data.images; i++) {
      this.decisions[i] = decisionOf(i, question, state, data.far);
      count(this.tally, this.decisions[i], i, question, data);
    }
  }

  showLimits() {
    const { question, state } = this, found = { low: PASS, high: STOP };
    for (const slider of this.all("[data-limit]")) {
      const which = slider.dataset.limit, limit = state[which], words = limitWords(limit);
      slider.value = positionOf(limit, question.steps);
      slider.setAttribute("aria-valuetext", words);
      this.one(`[data-number="${which}"]`).value = limit < NEVER ? words : "";
      const count = this.decisions.filter((decision) => decision === found[which]).length;
      this.one(`[data-found="${which}"]`).textContent = count === 1 ? "1 image" : `${count.toLocaleString("en")} images`;
    }
    const box = this.one("[data-together]");
    if (box) box.checked = state.together;
    const own = this.one("[data-own]");
    if (own) own.hidden = !state.own;
  }

  showRates() {
    const rate = (row) => told(this.tally.of(row.dataset.rate), "rest" in row.dataset);
    for (const row of this.all("[data-rate]")) this.showRate(row, rate(row));
    for (const cell of this.all("[data-count]")) cell.textContent = counted(...this.tally.of(cell.dataset.count));
    const rates = this.all("[data-short]").map((row) => {
      const { k, n, limit } = rate(row);
      return `${row.dataset.short} ${counted(k, n)}${row.dataset.rate === "review" ? "" : ` (${limit})`}`;
    });
    this.one("[data-said]").textContent = `${this.limitsSaid()}: ${rates.join(", ")}.`;
  }

  limitsSaid() {
    const { low, high, own } = this.question, { state } = this;
    if (state.own || (own === null && state.low === low && state.high === high)) return "At the chosen limits";
    const sliders = this.all("[data-limit]");
    return sliders.map(({ dataset }) => `${dataset.name} ${limitWords(state[dataset.limit])}`).join(", ");
  }

  showRate(row, { k, n, low, high, bound, limit }) {
    const interval = `[${low.toFixed(3)}, ${high.toFixed(3)}]`, most = row.querySelector("[data-bound]");
    row.querySelector("[data-k]").textContent = counted(k, n);
    row.querySelector("[data-share]").textContent = n ? `${(k / n).toFixed(3)} ${interval}` : "";
    most.value = n ? bound : "";
    most.textContent = limit;
    const range = row.querySelector("[data-range]");
    if (!range) return;
    const [bar, mark] = range.children;
    range.hidden = !n;
    range.setAttribute("aria-label", interval);
    bar.style.left = `${100 * low}%`;
    bar.style.width = `${100 * (high - low)}%`;
    mark.style.left = `${(100 * k) / (n || 1)}%`;
  }

  showStudy() {
    for (const row of this.all("[data-study]")) {
      const { study, least, most } = row.dataset, [k, n] = this.tally.of(study);
      const value = study === "kappa" ? kappaOf(this.tally) : n ? k / n : null;
      const kept = least === undefined ? (value ?? 0) <= Number(most) : value !== null && value >= Number(least);
      row.querySelector("[data-k]").textContent = study === "kappa" ? "" : counted(k, n);
      row.querySelector("[data-share]").textContent = value === null ? "n/a" : value.toFixed(3);
      const tag = row.querySelector("[data-kept]");
      tag.textContent = kept ? "yes" : "no";
      tag.className = kept ? "tag kept" : "tag dropped";
    }
  }

  // Lines over the curve, where the sliders stand.
  showMarks() {
    const curve = this.data.curves[this.number], picture = this.one(`[data-curve="${this.number}"] svg`);
    if (!curve || !picture) return;
    const [left, top, right, bottom] = curve.box;
    for (const { dataset } of this.all("[data-limit]")) {
      const line = picture.querySelector(`.mark-${dataset.limit}`) ?? picture.appendChild(this.mark(dataset.limit));
      const x = left + shareAlong(this.state[dataset.limit], curve.ends) * (right - left);
      for (const [name, value] of Object.entries({ x1: x, x2: x, y1: top, y2: bottom })) line.setAttribute(name, value);
    }
  }

  mark(which) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", `mark mark-${which}`);
    return line;
  }

  // ---- the wall of pictures

  showWall() {
    for (const part of this.all("[data-wall]")) {
      const wrong = this.wrong(part.dataset.wall), shown = wrong.filter((row) => this.pictured(row));
      part.querySelector("[data-shown]").textContent = `${counted(shown.length, wrong.length)} shown`;
      part.querySelector("[data-cards]").replaceChildren(...shown.map((row) => this.card(row, part.dataset.wall)));
      part.hidden = !wrong.length;
    }
    const none = this.all("[data-wall]").every((part) => part.hidden);
    this.one("[data-none]").hidden = !none;
  }

  // The rows of one kind of mistake, of the class to be seen, worst first.
  wrong(kind) {
    const { question, decisions, data } = this, picked = this.one("[data-class]")?.value ?? "";
    const mistake = kind === "miss" ? PASS : STOP, sign = kind === "miss" ? 1 : -1;
    const rows = [];
    decisions.forEach((decision, row) => {
      const seen = picked === "" || data.truth[row] === Number(picked);
      if (decision === mistake && question[kind][row] && seen) rows.push(row);
    });
    return rows.sort((one, other) => sign * (question.scores[one] - question.scores[other]));
  }

  pictured(row) {
    this.byRow ??= new Map(this.data.cards.map((card) => [card.row, card]));
    return this.byRow.has(row);
  }

  // Made once: a picture that is made again flickers.
  card(row, kind) {
    const key = `${this.number}/${kind}/${row}`;
    if (!this.cards.has(key)) this.cards.set(key, this.makeCard(this.byRow.get(row), this.verdict(row, kind)));
    return this.cards.get(key);
  }

  // What the image is, what was decided, and its score.
  verdict(row, kind) {
    const { data, question } = this, score = limitWords(question.scores[row]), { classes, truth } = data;
    if (data.kind === "labels") return [question.name, kind === "miss" ? "missed" : "said wrongly", score];
    if (data.kind === "good" && kind === "miss") return [classes[truth[row]], "decided OK", score];
    const taken = classes[question.likely[row]];
    return [classes[truth[row]], data.kind === "good" ? `decided NG (${taken})` : `decided ${taken}`, score];
  }

  makeCard({ path, picture, missing }, [truth, decided, score]) {
    const card = make("figure"), shot = make("div", picture ? "" : missing, "shot"), caption = make("figcaption");
    if (picture) {
      const image = make("img");
      image.src = picture;
      image.alt = `${path}: ${truth}, ${decided}, score ${score}`;
      shot.append(image);
    }
    caption.append(make("b", truth), ` ${decided}`, make("br"), `score ${score}`, make("br"), make("span", path, "path"));
    card.append(shot, caption);
    return card;
  }
}

for (const root of document.querySelectorAll("[data-explore]")) new Explorer(root);
