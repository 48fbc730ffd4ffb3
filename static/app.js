// Every page works without this file; each part only shortens the way. No inline code, no eval: the CSP forbids both.
"use strict";

const root = document.documentElement;
// Buttons that need a script are hidden until there is one (app.css).
root.classList.add("scripted");

// Copy: the clipboard's interface exists on HTTPS and localhost only; elsewhere a selection does the same.
async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  const word = button.querySelector("span");
  word.textContent = "Copied";
  button.classList.add("copied");
  setTimeout(() => { word.textContent = "Copy"; button.classList.remove("copied"); }, 2000);
}

// Close: what a person has read goes away, and the focus does not get lost with it.
function close(button) {
  const around = button.closest("dialog, [popover], .note, .panel");
  if (around.matches("dialog")) around.close();
  else if (around.matches("[popover]")) around.hidePopover();
  else {
    around.remove();
    document.querySelector("main").focus();
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-close]");
  if (button?.dataset.copy) copy(button);
  else if (button) close(button);
});

// Theme: changes at once, so that what is typed on the page stays; the form is sent beside it to be remembered.
function switchTheme(form, button) {
  root.dataset.bsTheme = button.value;
  form.querySelector(`button:not([value=${button.value}])`).focus();
  fetch(form.getAttribute("action"), { method: "POST", body: new FormData(form, button), redirect: "manual" });
}

// Upload: a browser shows no progress of its own for a form, and model files are large.
function upload(form, button) {
  const bar = form.querySelector("progress");
  const says = form.querySelector(".says");
  const tell = (sentence) => { if (says) says.textContent = sentence; };
  const size = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
  const request = new XMLHttpRequest();
  // The attribute: a field named "action" would hide the property.
  request.open("POST", form.getAttribute("action"));
  request.responseType = "document";
  request.upload.onprogress = ({ loaded, total }) => {
    if (bar) [bar.max, bar.value] = [total, loaded];
    tell(`${size(loaded)} of ${size(total)} sent, ${Math.floor(100 * loaded / total)} %`);
  };
  request.upload.onload = () => tell("Sent. The server is reading it.");
  request.onload = () => {
    const main = request.response?.querySelector("main");
    if (request.status < 400) location.assign(request.responseURL);
    else if (main) show(main, request.response.title);
    else stop(`The server refused the file (status ${request.status}).`);
  };
  request.onerror = () => stop("The connection broke before the file was there. Send it again.");
  const stop = (sentence) => { tell(sentence); button.disabled = false; };
  request.send(new FormData(form, button));
  // Only now: a disabled button is left out of what is sent.
  button.disabled = true;
  bar?.closest("[hidden]")?.removeAttribute("hidden");
}

// The answer's page takes the place of this one, as it would without a script.
function show(main, title) {
  const first = main.querySelector("[autofocus]") ?? main;
  // A page focuses by itself only once.
  first.removeAttribute("autofocus");
  document.querySelector("main").replaceWith(main);
  document.title = title;
  window.htmx?.process(main);
  first.focus();
  scrollTo(0, 0);
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("[data-theme-form]")) {
    event.preventDefault();
    switchTheme(form, event.submitter);
  } else if (form.matches("[data-upload]")) {
    event.preventDefault();
    upload(form, event.submitter);
  }
});

// Reach: who ticks a model means "only these".
document.addEventListener("change", (event) => {
  const around = event.target.closest("[data-reach]");
  if (around && event.target.type === "checkbox" && event.target.checked) around.querySelector("[value=some]").checked = true;
  if (around && event.target.value === "every") around.querySelectorAll("[type=checkbox]").forEach((box) => { box.checked = false; });
});

// "/" goes to the search field. A shortcut of one character must have a switch (WCAG 2.1.4): a checkbox anywhere.
const keySwitch = document.querySelector("[data-shortcuts]");
if (keySwitch) {
  keySwitch.checked = localStorage.getItem("shortcuts") !== "off";
  keySwitch.addEventListener("change", () => localStorage.setItem("shortcuts", keySwitch.checked ? "on" : "off"));
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, [contenteditable]")) return;
  const search = document.querySelector("main input[type=search]");
  if (!search || localStorage.getItem("shortcuts") === "off") return;
  event.preventDefault();
  search.focus();
});
