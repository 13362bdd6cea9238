// Ranks the list of pages while words are typed; without it the list is complete and the form asks the server.
const query = document.getElementById("query");
const list = document.getElementById("found");
const items = Array.from(list.querySelectorAll("li"));
const texts = items.map((item) => item.textContent.toLowerCase());
const common = new Set("a an and are as at be by can do does for from how in is it its of on or the to what when why with you your".split(" "));
function narrow() {
  const apart = query.value.replace(/([a-z])([A-Z][a-z])/g, "$1 $2");
  const typed = apart.toLowerCase().split(/[^a-z0-9@.^]+/).filter(Boolean);
  const rare = typed.filter((word) => !common.has(word));
  const words = (rare.length ? rare : typed).map((word) => (word.length > 5 ? word.slice(0, -2) : word));
  const weights = words.map((word) => Math.log(1 + items.length / (0.5 + texts.filter((text) => text.includes(word)).length)));
  const scores = texts.map((text) => words.reduce((sum, word, i) => sum + (text.includes(word) ? weights[i] : 0), 0));
  const least = 0.5 * Math.max(...scores);
  const order = items.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
  let shown = 0;
  for (const i of order) {
    items[i].hidden = words.length > 0 && (scores[i] === 0 || scores[i] < least);
    shown += items[i].hidden ? 0 : 1;
    list.append(items[i]);
  }
  document.getElementById("count").textContent = shown + " pages";
}
const given = new URLSearchParams(location.search).get("query");
if (given && !query.value) {
  query.value = given;
  narrow();
}
query.addEventListener("input", narrow);
