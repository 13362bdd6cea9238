// Narrows the list of pages while words are typed; without it the list is complete and the form asks the server.
const query = document.getElementById("query");
const items = Array.from(document.querySelectorAll("#found li"));
function narrow() {
  const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of items) {
    const text = item.textContent.toLowerCase();
    item.hidden = !words.every((word) => text.includes(word));
    shown += item.hidden ? 0 : 1;
  }
  document.getElementById("count").textContent = shown + " pages";
}
const given = new URLSearchParams(location.search).get("query");
if (location.protocol === "file:" && given) {
  query.value = given;
  narrow();
}
query.addEventListener("input", narrow);
