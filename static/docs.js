// The page of the API's description: Swagger UI, in the theme of the page around it.
"use strict";

const place = document.getElementById("reference");
const html = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

// Swagger UI knows its dark colours by a class.
function followTheme() {
  const theme = html.dataset.bsTheme || (dark.matches ? "dark" : "light");
  html.classList.toggle("dark-mode", theme === "dark");
}

followTheme();
dark.addEventListener("change", followTheme);
new MutationObserver(followTheme).observe(html, { attributeFilter: ["data-bs-theme"] });

// A page has one main landmark, and it is around this one.
new MutationObserver(() => place.querySelector("main:not([role])")?.setAttribute("role", "group"))
  .observe(place, { childList: true, subtree: true });

SwaggerUIBundle({
  domNode: place,
  url: place.dataset.url,
  // Nothing is sent to a validator of others, and a key lives as long as the page.
  validatorUrl: null,
  persistAuthorization: false,
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
});
