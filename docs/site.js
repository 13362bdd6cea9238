// what scrolls sideways can be scrolled by keyboard
function reachable() {
  for (const box of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, .md-typeset__table, .highlight"))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
}
document.querySelector("[data-md-component=search]").ariaLabel = "Search";
addEventListener("load", reachable);
addEventListener("resize", reachable);
