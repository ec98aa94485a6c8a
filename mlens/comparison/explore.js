"use strict";
// Every text of the page is set as textContent, never as HTML.
const page = JSON.parse(document.getElementById("data").textContent);
const ROWS = 200; // of a long history, before the button is pressed
const byId = (id) => document.getElementById(id);
const state = { user: 0, target: 0, all: false };

function element(name, text, attributes = {}, children = []) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// Indices from lengths of gaps and runs in turn, or from bits in base64.
function decode(code) {
  const found = [];
  if (typeof code === "string") {
    [...atob(code)].forEach((byte, at) => {
      for (let bit = 0; bit < 8; bit++) if ((byte.charCodeAt(0) >> bit) & 1) found.push(8 * at + bit);
    });
    return found;
  }
  let at = 0;
  code.forEach((length, number) => {
    if (number % 2) for (let i = 0; i < length; i++) found.push(at + i);
    at += length;
  });
  return found;
}

function days(user) {
  let day = 0;
  return user.day.map((more) => (day += more));
}

function date(day) {
  const made = new Date(day * 864e5);
  return page.dates && !Number.isNaN(made.getTime()) ? made.toISOString().slice(0, 10) : "";
}

const rating = (index) => page.scale[index].toFixed(page.scale.every(Number.isInteger) ? 0 : 1);
const percent = (mille) => (mille > 0 && mille < 10 ? "<1%" : `${Math.round(mille / 10)}%`);
const counted = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
const named = ([title, categories]) => (categories ? `${title} (${categories})` : title);

function colour(made, arm) {
  made.style.setProperty("--arm", arm.colour || "currentColor");
  return made;
}

// How many draws showed each rating to the target; null if that is unknown.
function timesShown(predicted, arm) {
  if (arm.unknown || !predicted.shown) return null;
  const times = new Map();
  for (const code of predicted.shown) for (const t of decode(code)) times.set(t, (times.get(t) || 0) + 1);
  return times;
}

function bars(predicted, arm, truth) {
  const [width, height, top, bottom] = [280, 130, 16, 34];
  const step = width / page.scale.length;
  const most = Math.max(...predicted.p, 1);
  const all = page.scale.map((_, i) => `${rating(i)}: ${percent(predicted.p[i])}`).join(", ");
  const label = `${arm.label}: ${all}; expected ${predicted.expected.toFixed(2)}; true rating ${rating(truth)}`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const floor = height - bottom;
  predicted.p.forEach((mille, i) => {
    const tall = ((floor - top) * mille) / most;
    const kind = i === truth ? " truth" : "";
    const middle = (i + 0.5) * step;
    svg.append(
      drawn("rect", { class: `bar${kind}`, x: i * step + 2, y: floor - tall, width: step - 4, height: tall }),
      drawn("text", { x: middle, y: floor - tall - 3, class: kind.trim() }, mille < 10 ? "" : percent(mille)),
      drawn("text", { x: middle, y: floor + 13, class: kind.trim() }, rating(i)),
    );
    if (kind) svg.append(drawn("text", { x: middle, y: floor + 26, class: "truth" }, "▲"));
  });
  const above = page.scale.findIndex((value) => value >= predicted.expected);
  const high = above < 0 ? page.scale.length - 1 : above;
  const low = Math.max(high - 1, 0);
  const gap = page.scale[high] - page.scale[low];
  const x = step * (0.5 + (gap ? low + (predicted.expected - page.scale[low]) / gap : high));
  svg.append(
    drawn("line", { class: "axis", x1: 0, x2: width, y1: floor, y2: floor }),
    drawn("line", { class: "expected", x1: x, x2: x, y1: top, y2: floor + 3 }),
  );
  return svg;
}

function showArms(target, truth, shown, visible) {
  const figures = target.arms.map((predicted, number) => {
    const arm = page.arms[number];
    const off = predicted.expected - page.scale[truth];
    const side = Math.abs(off) < 0.005 ? "as rated" : `${Math.abs(off).toFixed(2)} ${off > 0 ? "above" : "below"} the true rating`;
    const times = shown[number];
    const most = arm.draws > 1 ? ` in at least one of ${counted(arm.draws, "draw")}` : "";
    const history = times ? `shown ${times.size} of ${counted(visible.length, "rating")}${most}` : `what it was shown is unknown: ${arm.unknown}`;
    const caption = element("figcaption", "", {}, [element("span", "", { class: "swatch", "aria-hidden": "true" }), `${number + 1}. ${arm.label}`]);
    const lines = [element("p", `expected ${predicted.expected.toFixed(2)}, ${side}`), element("p", history, { class: times ? "small" : "small note" })];
    return colour(element("figure", "", {}, [caption, bars(predicted, arm, truth), ...lines]), arm);
  });
  byId("arms").replaceChildren(...figures);
}

function mark(times, t, arm) {
  const cell = colour(element("td", "", { class: "mark" }), arm);
  if (!times) return cell.append(element("span", "unknown", { class: "hidden" }), "?"), cell;
  const n = times.get(t) || 0;
  if (arm.draws > 1) cell.textContent = n ? `${n}/${arm.draws}` : "";
  else if (n) cell.append(element("span", "●", { class: "dot", "aria-hidden": "true" }), element("span", "shown", { class: "hidden" }));
  return cell;
}

function showHistory(user, shown, visible) {
  const when = days(user);
  const rows = visible.slice().reverse();
  const heads = page.arms.map((arm, number) =>
    colour(element("th", `${number + 1}`, { class: "mark", scope: "col", "aria-label": arm.label, title: arm.label }, [element("small", arm.label)]), arm),
  );
  const noun = page.item[0].toUpperCase() + page.item.slice(1);
  const dated = (cells) => (page.dates ? cells : []);
  const head = element("tr", "", {}, [
    element("th", "Rating", { scope: "col" }),
    element("th", noun, { scope: "col" }),
    ...dated([element("th", "Date", { scope: "col", class: "date" })]),
    ...heads,
  ]);
  const body = rows.slice(0, state.all ? rows.length : ROWS).map((t) => {
    const [title, categories] = page.movies[user.movie[t]];
    return element("tr", "", { "data-t": t }, [
      element("td", rating(user.rating[t]), { class: "rating" }),
      element("th", "", { scope: "row" }, [
        element("bdi", title),
        " ",
        element("bdi", categories, { class: "small" }),
        ...dated([element("span", date(when[t]), { class: "small narrow" })]),
      ]),
      ...dated([element("td", date(when[t]), { class: "date" })]),
      ...page.arms.map((arm, number) => mark(shown[number], t, arm)),
    ]);
  });
  byId("history").replaceChildren(element("thead", "", {}, [head]), element("tbody", "", {}, body));
  byId("more").hidden = state.all || rows.length <= ROWS;
  byId("more").textContent = `Show all ${counted(rows.length, "rating")}`;
  const marks = page.arms.some((arm) => arm.draws > 1) ? "●, or the number of draws of histories that showed it" : "●";
  byId("legend").textContent = rows.length
    ? `The user's earlier ratings, newest first, with ${page.categories}; ${marks}: shown to the arm of that number.`
    : "No earlier rating is visible to this one.";
}

function show() {
  const user = page.list[state.user];
  const target = user.targets[state.target];
  const truth = user.rating[target.t];
  const visible = decode(target.visible);
  const shown = target.arms.map((predicted, number) => timesShown(predicted, page.arms[number]));
  const day = date(days(user)[target.t]);
  const answer = [`User ${user.id} rated this ${page.item} `, element("strong", rating(truth)), day ? ` on ${day}: ` : ": "];
  byId("answer").replaceChildren(...answer, element("bdi", named(page.movies[user.movie[target.t]])));
  showArms(target, truth, shown, visible);
  showHistory(user, shown, visible);
  byId("previous").disabled = state.user === 0;
  byId("next").disabled = state.user === page.list.length - 1;
  history.replaceState(null, "", `#${new URLSearchParams({ user: user.id, target: target.t })}`);
}

// Choose a user and a target by their places; without a target, the user's last one.
function choose(number, target) {
  const user = page.list[number];
  Object.assign(state, { user: number, target: target ?? user.targets.length - 1, all: false });
  byId("user").value = user.id;
  const options = user.targets.map(({ t }, i) => element("option", page.movies[user.movie[t]][0], { value: i }));
  byId("target").replaceChildren(...options);
  byId("target").value = state.target;
  show();
}

function chooseTyped() {
  const typed = byId("user").value.trim();
  const number = page.list.findIndex((user) => user.id === typed);
  byId("user").setAttribute("aria-invalid", number < 0);
  if (number >= 0) choose(number);
  else byId("answer").textContent = `User ${typed} isn't on this page: choose one of the list.`;
}

function chooseByAddress() {
  const address = new URLSearchParams(location.hash.slice(1));
  const number = Math.max(page.list.findIndex((user) => user.id === address.get("user")), 0);
  const target = page.list[number].targets.findIndex(({ t }) => String(t) === address.get("target"));
  choose(number, target < 0 ? undefined : target);
}

const all = page.list.length === page.users;
byId("sample").textContent =
  (all ? `All ${counted(page.users, "user")} of the test` : `${counted(page.list.length, "user")} of ${page.users.toLocaleString("en")}, drawn at random: more don't fit into this file`) +
  (page.leftOut ? `; ${page.leftOut} of those drawn are left out, since their histories are too long.` : ".");
byId("users").replaceChildren(...page.list.map((user) => element("option", "", { value: user.id })));
byId("user").addEventListener("change", chooseTyped);
byId("choice").addEventListener("submit", (event) => (event.preventDefault(), chooseTyped()));
byId("target").addEventListener("change", () => ((state.target = Number(byId("target").value)), (state.all = false), show()));
byId("previous").addEventListener("click", () => choose(state.user - 1));
byId("next").addEventListener("click", () => choose(state.user + 1));
byId("more").addEventListener("click", () => ((state.all = true), show()));
addEventListener("hashchange", chooseByAddress);
chooseByAddress();
