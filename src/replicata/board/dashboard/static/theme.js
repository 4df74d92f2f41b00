// Before the first paint: the theme that was chosen here before, else the system's.
try {
  const chosen = localStorage.getItem("replicata-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch (error) {
  // storage is forbidden: the system's theme it is
}
document.documentElement.classList.add("js");
