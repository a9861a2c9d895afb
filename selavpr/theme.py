"""How the page looks and what its few scripts do: plain CSS and JavaScript as text.

System fonts only, so that nothing is fetched from elsewhere. Colours hold a contrast of at least
4.5 to 1 for text in both themes.
"""

from __future__ import annotations

import json

from selavpr.text import CONTROLS, HIDE_OTHER_LANGUAGE, plain

FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = (
    HIDE_OTHER_LANGUAGE
    + """
:root{--sv-card:#fff;--sv-ink:#1c2733;--sv-soft:#55616f;--sv-line:#dfe3e8;--sv-wash:#eef1f4;
 --sv-green:#0f766e;--sv-violet:#6d28d9;--sv-orange:#c2410c;--sv-page:#f5f6f8}
.dark{--sv-card:#182029;--sv-ink:#e8edf2;--sv-soft:#a3b0bd;--sv-line:#2d3946;--sv-wash:#222c37;
 --sv-green:#5eead4;--sv-violet:#c4b5fd;--sv-orange:#fdba74;--sv-page:#10161d}
body,gradio-app{background:var(--sv-page)!important}
.gradio-container{max-width:1320px!important;width:100%;min-width:0!important;
 margin:0 auto!important;background:none!important}
.main.app{max-width:none!important;padding:18px 24px 32px!important;min-width:0}
.main.app .wrap,main.contain{min-width:0;padding:0!important}
.gradio-container .html-container{color:var(--sv-ink);padding:0;line-height:1.5}
.html-container button,.html-container p,.html-container li{font-weight:400}
.sv-hidden{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
 white-space:nowrap}
.sv-skip{position:absolute;left:-9999px}
.sv-skip:focus{left:16px;top:8px;z-index:50;background:var(--sv-card);padding:8px 12px}
.gradio-container button:focus-visible,.gradio-container a:focus-visible,
.gradio-container summary:focus-visible{outline:3px solid #f59e0b!important;outline-offset:2px}

.sv-header{display:flex;align-items:center;gap:14px;flex-wrap:wrap}
.sv-logo svg{display:block}
.sv-header h1{font-size:22px;line-height:1.2;margin:0;font-weight:700;color:var(--sv-ink);
 letter-spacing:-.01em}
.sv-header p{margin:2px 0 0;color:var(--sv-soft);font-size:15px}
.sv-switches{margin-left:auto;display:flex;gap:8px}
.sv-chip{display:inline-block;border:1px solid var(--sv-line);background:var(--sv-card);
 color:var(--sv-ink)!important;border-radius:999px;padding:7px 14px;font-size:14px;cursor:pointer;
 text-decoration:none!important;line-height:1.3}
.sv-chip:hover{border-color:var(--sv-green)}
.sv-chip[aria-pressed=true]{background:var(--sv-ink);color:var(--sv-card)!important}

/* On a wide screen: the form beside the answer, the evidence below both and as wide as the page. */
@media (min-width:861px){
 #sv-page{display:grid!important;grid-template-columns:320px minmax(0,1fr);gap:24px;
  grid-template-rows:auto 1fr;align-items:start}
 #sv-side{grid-area:1/1/span 2}
 #sv-result,#sv-end{grid-column:2}
 #sv-page:has(.sv-verdict){grid-template-rows:none}
 #sv-page:has(.sv-verdict) #sv-side{grid-area:1/1}
 #sv-wide,#sv-page:has(.sv-verdict) #sv-end{grid-column:1/-1}
}
#sv-side{position:sticky;top:14px;align-self:flex-start;gap:12px}
#sv-side>*,#sv-result>*,#sv-wide>*,#sv-end>*{flex-grow:0}
#sv-locate{min-height:50px;font-size:17px;font-weight:650;border-radius:12px}
.sv-small{font-size:13px!important;font-weight:650;margin:2px 0 8px!important;
 color:var(--sv-soft)!important}
.sv-examples{display:grid;grid-template-columns:repeat(auto-fill,minmax(128px,1fr));gap:8px}
.sv-examples button{border:1px solid var(--sv-line);background:var(--sv-card);border-radius:10px;
 padding:0;overflow:hidden;cursor:pointer;text-align:left;color:var(--sv-ink);font-size:12px;
 display:flex;flex-direction:column}
.sv-examples button[aria-pressed=true]{border-color:var(--sv-green);
 box-shadow:0 0 0 1px var(--sv-green)}
@media (hover:hover){.sv-examples button:hover{border-color:var(--sv-green)}}
.sv-examples img{width:100%;aspect-ratio:4/3;object-fit:cover;display:block;margin:0;height:auto}
.sv-examples button>span{display:block;padding:4px 8px 6px;line-height:1.25}

#sv-result,#sv-more,#sv-wide,#sv-end{gap:18px}
#sv-page section{background:none}
#sv-page h2{font-size:18px;margin:0 0 6px;font-weight:680;color:var(--sv-ink)}
#sv-page p{margin:0}
.sv-note{color:var(--sv-soft);font-size:14px}
.sv-notice{border:1px solid #b45309;border-radius:12px;padding:8px 14px;margin:0;font-size:15px;
 background:var(--sv-card)}
.sv-empty{display:grid;gap:14px;color:var(--sv-soft)}
.sv-lead{display:flex;gap:16px;align-items:center;border:1px solid var(--sv-line);
 border-radius:16px;padding:18px 20px;background:var(--sv-card)}
#sv-page .sv-empty h2{margin:0 0 2px;font-size:22px}
.sv-empty p{font-size:15px}
.sv-links{flex-wrap:wrap;align-items:center}
.sv-verdict{display:flex;gap:16px;align-items:flex-start;border-radius:16px;
 padding:18px 20px 18px 24px;
 background:var(--sv-card)!important;border:1px solid var(--sv-line);position:relative;
 overflow:hidden}
.sv-verdict::before{content:"";position:absolute;inset:0 auto 0 0;width:7px;
 background:var(--sv-mark)}
.sv-sure{--sv-mark:#15803d}.sv-probably{--sv-mark:#0f766e}.sv-unsure{--sv-mark:#b45309}
.sv-not-here{--sv-mark:#b91c1c}
.sv-sign{flex:none;width:44px;height:44px;border-radius:50%;background:var(--sv-mark);color:#fff;
 font-size:24px;font-weight:700;display:grid;place-items:center}
#sv-page .sv-verdict h2{font-size:27px;line-height:1.2;letter-spacing:-.01em;margin:0 0 4px}
.sv-verdict>div:last-child{min-width:0}
.sv-verdict h2,.sv-picked{overflow-wrap:anywhere}
.sv-verdict p{color:var(--sv-soft);font-size:15px}
.sv-facts{list-style:none;display:flex;flex-wrap:wrap;gap:6px 8px;margin:12px 0 0;padding:0}
.sv-facts li{background:var(--sv-wash);border-radius:999px;padding:3px 12px;margin:0;font-size:14px}
.sv-facts code{background:none;border:0;padding:0;color:inherit;font-size:13px}
.sv-facts a{color:inherit;text-decoration:none;display:inline-block;position:relative}
.sv-facts a:hover code{text-decoration:underline}
.sv-map{width:100%;height:440px;border:1px solid var(--sv-line);border-radius:16px;display:block;
 background:var(--sv-wash)}
.sv-waiting{background:var(--sv-wash);border-radius:16px;animation:sv-wait 1.4s 20 alternate}
.sv-waiting-map{height:440px}.sv-waiting-columns{height:640px}
@keyframes sv-wait{to{opacity:.45}}
.sv-empty .sv-map{height:520px}

.sv-key{list-style:none!important;display:flex;flex-wrap:wrap;gap:4px 18px;
 margin:8px 2px 0!important;padding:0!important;font-size:13px;color:var(--sv-soft)}
.sv-key li{margin:0!important}
.sv-key li::before{content:"";display:inline-block;width:11px;height:11px;border-radius:50%;
 margin-right:7px;vertical-align:-1px;background:#c2410c;box-sizing:border-box}
.sv-key .sv-k-truth::before{background:#15803d}
.sv-key .sv-k-circles::before{background:#c2410c29;border:2px solid #c2410c}
.sv-key .sv-k-moves::before{width:26px;height:10px;border-radius:0;background:\
radial-gradient(circle at 5px 5px,#fff 2px,#7c3aed 2.4px 4.4px,#0000 4.8px),\
radial-gradient(circle at 21px 5px,#7c3aed 4px,#0000 4.4px),\
linear-gradient(90deg,#7c3aed 3px,#0000 3px 5px,#7c3aed 5px) 9px 4px/8px 2px no-repeat}
.sv-moved{font-weight:600;color:var(--sv-orange)}
.sv-stayed{font-weight:600;color:var(--sv-green)}
.sv-columns{display:grid;grid-template-columns:1fr 1fr;gap:16px;margin-top:12px}
.sv-column{border-top:4px solid var(--sv-violet);background:var(--sv-card);border-radius:12px;
 padding:12px;min-width:0}
.sv-column.sv-rerank{border-color:#0f766e}
.sv-column h3{margin:0;font-size:16px;font-weight:680;color:var(--sv-violet)}
.sv-column.sv-rerank h3{color:var(--sv-green)}
.sv-column>p{color:var(--sv-soft);font-size:13px}
.sv-column ol{list-style:none!important;margin:10px 0 0!important;padding:0!important;display:grid;
 gap:6px;grid-template-columns:minmax(0,1fr)}
.sv-column li{margin:0!important}
.sv-column summary{cursor:pointer;padding:8px 4px 0;color:var(--sv-soft);font-size:14px}
.sv-card{width:100%;display:flex;align-items:center;gap:10px;text-align:left;padding:6px;
 border:1px solid transparent;border-radius:10px;background:none;color:var(--sv-ink);
 cursor:pointer;position:relative}
.sv-card:hover{background:var(--sv-wash)}
.sv-card[aria-pressed=true]{border-color:var(--sv-green);background:var(--sv-wash)}
.sv-rank{position:absolute;left:2px;top:2px;min-width:24px;height:24px;border-radius:12px;
 background:#6d28d9;color:#fff;font-weight:700;font-size:13px;display:grid;place-items:center;
 border:2px solid var(--sv-card)}
.sv-rerank .sv-rank{background:#0f766e}
.sv-card img{border-radius:7px;width:120px;height:90px;object-fit:cover;flex:none;margin:0}
.sv-what{display:grid;gap:2px;min-width:0;flex:1;font-size:13px;color:var(--sv-soft)}
.sv-what b{font-size:15px;color:var(--sv-ink);font-weight:600;overflow-wrap:anywhere}
.sv-move{flex:none;font-size:13px;font-weight:700;min-width:30px;text-align:right;
 color:var(--sv-soft)}
.sv-move.sv-up{color:#166534}.dark .sv-move.sv-up{color:#86efac}
.sv-move.sv-down{color:#991b1b}.dark .sv-move.sv-down{color:#fca5a5}

.sv-picked{margin:0!important;font-size:16px;font-weight:650}
.sv-legend{font-size:13px;color:var(--sv-soft)}
.sv-legend>span:last-child{display:inline-block;width:120px;height:10px;border-radius:5px;
 vertical-align:middle;margin-left:6px}
.sv-pair{overflow-x:auto;border-radius:12px;margin:10px 0 8px;background:var(--sv-wash)}
.sv-pair-names{display:flex;flex-wrap:wrap;justify-content:space-between;gap:2px 16px;
 font-size:13px;color:var(--sv-soft);margin:-2px 0 8px!important}
.sv-credit{overflow-wrap:anywhere;text-align:right;margin-left:auto}
.sv-pair img{display:block;margin:0 auto;max-width:100%;max-height:480px}
.sv-heat{display:flex;gap:12px;margin:10px 0 8px}
.sv-heat figure{margin:0;min-width:0}
.sv-heat img{height:auto;max-height:430px;max-width:100%;border-radius:10px;display:block;margin:0}
.sv-heat figcaption{font-size:13px;color:var(--sv-soft);padding-top:4px}
.sv-bar{display:flex;height:14px;border-radius:7px;overflow:hidden;gap:1px;margin:8px 0}
.sv-bar i{display:block;min-width:2px;background:var(--sv-t)}
.sv-times{list-style:none!important;display:flex;flex-wrap:wrap;gap:4px 16px;margin:0!important;
 padding:0!important;font-size:13px;color:var(--sv-soft)}
.sv-times li{margin:0}
.sv-times li::before{content:"";display:inline-block;width:10px;height:10px;border-radius:3px;
 background:var(--sv-t);margin-right:6px}
.sv-t-open{--sv-t:#64748b}.sv-t-extract{--sv-t:#c2410c}.sv-t-search{--sv-t:#7c3aed}
.sv-t-rerank{--sv-t:#0f766e}.sv-t-locate{--sv-t:#ca8a04}
.sv-links{display:flex;gap:8px}
.sv-how{display:grid;gap:12px}
@media (min-width:1000px){#sv-page:has(.sv-verdict) .sv-how{grid-template-columns:3fr 2fr;
 align-items:center}}
#sv-matches .sv-links{margin-top:8px!important}
.sv-how ol{margin:0;padding-left:20px;max-width:75ch;font-size:15px;color:var(--sv-ink)}
.sv-how li{margin:0 0 6px}
.sv-how svg{width:100%;max-width:860px;height:auto;font:13px system-ui,sans-serif}
.sv-how text{text-anchor:middle;fill:var(--sv-ink)}
.sv-how .b{fill:var(--sv-wash);stroke:var(--sv-soft)}.sv-how .d{fill:var(--sv-soft);opacity:.55}
.sv-how .n{fill:#334155}.sv-how .w{stroke:#fff;stroke-width:5;opacity:.55}
.sv-how .p{fill:none;stroke:var(--sv-soft);stroke-width:2;marker-end:url(#sv-tip)}
.sv-how .a{fill:var(--sv-soft)}.sv-how .g{fill:#7c3aed}.sv-how .l{fill:#0d9488}
.sv-how .t{stroke:#0d9488;stroke-width:2.5}.sv-how .m{fill:#c2410c}
.sv-credits{font-size:13px;color:var(--sv-soft);padding-top:6px}
.sv-credits ul{padding-left:18px;margin:0}
footer .divider:last-child{display:none}
.sv-credits a{color:inherit;text-decoration:underline}

/* The answer that is still there when the photo or the city has been changed. */
.sv-outdated #sv-result:has(.sv-verdict)::before{
 content:"This is the answer to the photo and city before.";
 color:var(--sv-ink);font-weight:600}
html[lang^=zh] .sv-outdated #sv-result:has(.sv-verdict)::before{
 content:"这是之前的照片和城市的结果。"}
.sv-outdated #sv-page:has(.sv-verdict) :is(#sv-result,#sv-wide)>*{opacity:.45}

/* Gradio heads its messages in English whatever the language. */
html[lang^=zh] .toast-title-row>span{font-size:0}
html[lang^=zh] .toast-title-row>span::before{content:"提示";font-size:16px}
html[lang^=zh] .toast-body.error .toast-title-row>span::before{content:"未能完成"}
html[lang^=zh] .toast-body.warning .toast-title-row>span::before{content:"请注意"}
html[lang^=zh] .toast-count{font-size:13px}
@media (max-width:860px){
 #sv-page{flex-direction:column;flex-wrap:nowrap}
 #sv-page>*{width:100%;min-width:0!important}
 #sv-side{position:static}
 .sv-map,.sv-empty .sv-map,.sv-waiting-map{height:360px}
}
@media (max-width:640px){
 .main.app{padding:12px 12px 24px!important}
 .sv-header h1{font-size:19px}.sv-header p{font-size:14px}
 .sv-header{gap:8px 12px}
 .sv-header>div:nth-child(2){flex:1;min-width:200px}
 .sv-switches{margin-left:0}
 .sv-switches .sv-chip{padding:5px 12px;font-size:13px}
 .sv-columns{gap:8px}
 .sv-column{padding:8px}
 .sv-column>p{display:none}
 .sv-card{flex-direction:column;align-items:stretch;gap:4px;padding:4px}
 .sv-card img{width:100%;height:auto;aspect-ratio:4/3}
 .sv-what{font-size:12px}.sv-what b{font-size:13px}
 .sv-move{position:absolute;right:8px;top:8px;background:var(--sv-card);border-radius:8px;
  padding:0 6px;min-width:0}
 .sv-heat{flex-direction:column}
 .sv-heat img{width:100%;height:auto}
 .sv-pair-names{display:block}.sv-pair-names>span{display:block;text-align:left}
 #sv-page .sv-verdict h2{font-size:22px}
 .sv-verdict{gap:12px;padding:14px 14px 14px 19px}
 .sv-sign{width:32px;height:32px;font-size:18px}
 .sv-facts{display:block;margin-top:8px}
 .sv-facts li{display:inline;background:none;padding:0}
 .sv-facts li+li::before{content:"·";margin:0 7px}
 .sv-examples{grid-template-columns:repeat(3,1fr);gap:6px}
 .sv-how text{font-size:18px}
}
@media (prefers-reduced-motion:reduce){
 *{transition:none!important;animation-duration:.01s!important}
}
"""
)

HEAD = """
<script>
// A photo pasted anywhere on the page; Gradio takes one by its button only.
(() => {
  // Nothing can be chosen while the page loads, an upload runs or another photo is in its place.
  const give = (file, tries) => {
    const input = document.querySelector('#sv-photo input[type="file"]');
    if (!input) {
      const there = '[aria-label="Remove Image"],[aria-label="移除图片"]';
      document.querySelector(`#sv-photo :is(${there})`)?.click();
      if (tries) setTimeout(give, 100, file, tries - 1);
      return;
    }
    const carried = new DataTransfer();
    carried.items.add(file);
    input.files = carried.files;
    input.dispatchEvent(new Event('change', {bubbles: true}));
  };
  document.addEventListener('paste', (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith('image/'));
    if (!file) return;
    event.preventDefault();
    give(file, 300);
  });
})();
</script>
"""
"""Runs before anything is drawn: Gradio runs START at some time after."""

START = """
() => {
  const wanted = new URLSearchParams(location.search).get('lang') || LANG
    || localStorage.getItem('selavpr-lang');
  const theme = localStorage.getItem('selavpr-theme');
  if (theme) document.body.classList.toggle('dark', theme === 'dark');
  // Gradio's own labels follow its own locale store, which its core module exports.
  window.selavprLanguage = async (locale) => {
    localStorage.setItem('selavpr-lang', locale);
    document.documentElement.lang = locale;
    document.cookie = `selavpr_lang=${locale};path=/;SameSite=Lax`;
    const core = performance.getEntriesByType('resource').map((r) => r.name)
      .find((name) => /\\/assets\\/core-[^/]*\\.js$/.test(name));
    if (core) (await import(core)).changeLocale?.(locale);
  };
  // Gradio says in English only that the line is full.
  const ask = window.fetch;
  window.fetch = async (...request) => {
    const reply = await ask(...request);
    if (reply.status !== 503 || !reply.url.includes('/queue/join')) return reply;
    return new Response(JSON.stringify({detail: BUSY}), {status: 429});
  };
  // Gradio opens its page on the API at a click only, and may take the first for one to close it.
  if (new URLSearchParams(location.search).get('view') === 'api') {
    let tries = 0;
    const opening = setInterval(() => {
      if (document.querySelector('.api-docs') || ++tries > 8) return clearInterval(opening);
      document.querySelector('button.show-api')?.click();
    }, 700);
  }
  if (wanted) window.selavprLanguage(wanted.startsWith('zh') ? 'zh-CN' : 'en');
  // On a phone the answer, and what tells that it is being made, lie below the form.
  document.addEventListener('click', (event) => {
    const asks = document.querySelector('#sv-photo img') ? '#sv-locate, ' : '';
    if (!event.target.closest(asks + '[data-example]')) return;
    const result = document.getElementById('sv-result');
    if (result?.getBoundingClientRect().top > innerHeight * 0.8) result.scrollIntoView();
  });
  window.addEventListener('message', (event) => {
    if (event.origin !== location.origin || event.data?.selavprPick === undefined) return;
    const card = `[data-candidate="${Number(event.data.selavprPick)}"]`;
    (document.querySelector('.sv-rerank ' + card) || document.querySelector(card))?.click();
  });
}
"""
"""Runs once when the page opens; LANG is replaced by the language asked for at start, or null, and
BUSY by what to say when the line is full."""

SHOW_ANSWER = """
(topK, rerank, depth) => {
  const link = new URL(location);
  if (link.searchParams.has('example')) {
    link.searchParams.set('k', topK);
    link.searchParams.set('rerank', rerank ? 1 : 0);
    link.searchParams.set('depth', depth);
  }
  link.searchParams.delete('pick');
  history.replaceState(null, '', link);
  document.body.classList.remove('sv-outdated');
  const answer = document.getElementById('sv-answer');
  if (!answer) return;
  answer.focus({preventScroll: true});
  const box = answer.getBoundingClientRect();
  if (box.top < 0 || box.top > innerHeight * 0.6) answer.scrollIntoView({block: 'start'});
}
"""
"""Brings the answer into view (it lies below the form on phones) and to screen readers; leaves the
settings in the address, so that copying it copies the answer to an example."""

FORGET_EXAMPLE = """
() => {
  document.querySelector('[data-example][aria-pressed=true]')?.setAttribute('aria-pressed', false);
  const link = new URL(location);
  for (const name of ['example', 'k', 'rerank', 'depth', 'pick']) link.searchParams.delete(name);
  history.replaceState(null, '', link);
}
"""
"""A photo of the visitor's own cannot be reopened by a link."""

OUTDATE = """
() => document.body.classList.toggle('sv-outdated', !!document.querySelector('.sv-verdict'))
"""
"""An answer to another photo or about another city is not taken for one to these."""

REOPEN = """
() => {
  const asked = new URLSearchParams(location.search);
  const number = asked.get('example');
  window.selavprPicked = asked.get('pick');
  if (number !== null) document.querySelector(`[data-example="${Number(number)}"]`)?.click();
}
"""
"""Runs the example that the address names."""

REOPEN_PICK = """
() => {
  const number = window.selavprPicked;
  window.selavprPicked = null;
  if (number === null || number === undefined) return;
  const pick = (tries) => {
    const card = document.querySelector(`[data-candidate="${Number(number)}"]`);
    if (card) card.click();
    else if (tries) setTimeout(pick, 100, tries - 1);
  };
  if (Number(number)) pick(50);
}
"""
"""Picks the candidate that the address names, once: the columns may come a little later."""

HEADER_CLICKS = """
const isDark = () => document.body.classList.contains('dark');
const tell = () => element.querySelector('[data-do=theme]')?.setAttribute('aria-pressed', isDark());
new MutationObserver(tell).observe(document.body, {attributeFilter: ['class']});
tell();
let wasDark = false;  // paper is white
addEventListener('beforeprint', () => {
  wasDark = isDark();
  document.body.classList.remove('dark');
});
addEventListener('afterprint', () => document.body.classList.toggle('dark', wasDark));
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-do]');
  if (!button) return;
  if (button.dataset.do === 'theme') {
    const dark = document.body.classList.toggle('dark');
    localStorage.setItem('selavpr-theme', dark ? 'dark' : 'light');
  } else {
    window.selavprLanguage(document.documentElement.lang.startsWith('zh') ? 'en' : 'zh-CN');
  }
});
"""

EXAMPLE_CLICKS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (!button) return;
  for (const other of element.querySelectorAll('[data-example]')) {
    other.setAttribute('aria-pressed', other === button);
  }
  const link = new URL(location);
  link.searchParams.set('example', button.dataset.example);
  history.replaceState(null, '', link);
  trigger('click', {number: Number(button.dataset.example)});
});
"""

CARD_CLICKS = """
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-candidate]');
  if (!card) return;
  for (const other of element.querySelectorAll('[data-candidate]')) {
    other.setAttribute('aria-pressed', other.dataset.candidate === card.dataset.candidate);
  }
  const number = Number(card.dataset.candidate);
  const link = new URL(location);
  if (link.searchParams.has('example')) {
    link.searchParams.set('pick', number);
    history.replaceState(null, '', link);
  }
  document.querySelector('#sv-more iframe.sv-map')?.contentWindow
    .postMessage({selavprShow: number}, location.origin);
  // Whoever picked a pin is to stay at the map.
  if (event.isTrusted) document.getElementById('sv-matches')?.scrollIntoView({block: 'nearest'});
  trigger('click', {number: number});
});
"""

LINK_CLICKS = """
element.addEventListener('click', async (event) => {
  const button = event.target.closest('[data-do]');
  if (button?.dataset.do === 'picture') document.querySelector('#sv-matches a[download]')?.click();
  if (button?.dataset.do !== 'link') return;
  try {
    await navigator.clipboard.writeText(location.href);
    button.nextElementSibling.hidden = false;
  } catch {
    // No clipboard without https: the address is in the bar, and here to copy by hand.
    prompt('', location.href);
  }
});
"""

NAME_CONTROLS = """
(() => {
  const chinese = TABLE, titles = TITLES;
  const english = Object.fromEntries(Object.entries(chinese).map((pair) => pair.reverse()));
  const translated = (name) => {
    const labelled = /^(number input|range slider) for (.*)$/s.exec(name);
    return labelled ? `${labelled[2]} (${chinese[labelled[1]]})` : chinese[name];
  };
  const inChinese = () => document.documentElement.lang.startsWith('zh');
  const rename = (element) => {
    for (const part of ['aria-label', 'title']) {
      const name = element.getAttribute(part);
      const other = name && (inChinese() ? translated(name) : english[name]);
      if (other) element.setAttribute(part, other);
    }
  };
  const renameAll = (root) => root.querySelectorAll('[aria-label],[title]').forEach(rename);
  const follow = () => {
    document.title = titles[Number(inChinese())];
    renameAll(document);
  };
  new MutationObserver((records) => {
    for (const record of records) {
      if (record.target === document.documentElement) follow();
      else if (record.attributeName) rename(record.target);
      for (const node of record.addedNodes) {
        if (node.nodeType === Node.ELEMENT_NODE) { rename(node); renameAll(node); }
      }
    }
  }).observe(document.documentElement,
    {subtree: true, childList: true, attributeFilter: ['aria-label', 'title', 'lang']});
  follow();
})();
""".replace("TABLE", json.dumps(CONTROLS, ensure_ascii=False)).replace(
    "TITLES", json.dumps([plain("title", "en"), plain("title", "zh")], ensure_ascii=False)
)
"""A script that puts the names of Gradio's controls, and the page's own, into its language."""
