//! The look of a report: light and dark, wide and narrow, on paper.

/// The style sheet. A table that is wider than its place has a shadow at the side where more of it lies, and its first column stays. Colours of series are those of Okabe and Ito, lighter where the page is dark.
pub(super) const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2024;--soft:#5b6570;--line:#dfe3e8;--page:#fff;--box:#f5f7f9;--behind:var(--page);--shade:rgba(0,0,0,.22);--focus:#0072b2;\
--c0:#0072b2;--c1:#c24a00;--c2:#00775a;--c3:#a8457f;--c4:#9a6b00;--c5:#2b7bab;--c6:#444}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3adb7;--line:#343b43;--page:#14181c;--box:#1d2329;--shade:rgba(255,255,255,.3);--focus:#7cc4f0;\
--c0:#56b4e9;--c1:#f08a4b;--c2:#2fc79c;--c3:#e08fc0;--c4:#e6b23c;--c5:#8fcdf2;--c6:#bbb}}\
*{box-sizing:border-box}\
body{font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;color:var(--ink);background:var(--page);margin:0}\
main{max-width:76rem;margin:0 auto;padding:1.5rem 1rem 4rem}\
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .4rem;overflow-wrap:anywhere}\
h2{font-size:1.15rem;margin:2.2rem 0 .6rem}h3{font-size:1rem;margin:1.4rem 0 .4rem}\
p{margin:.4rem 0 .8rem;max-width:46rem;overflow-wrap:anywhere}.soft,figcaption{color:var(--soft);font-size:.9rem}\
.wide{overflow-x:auto;margin:.6rem 0;\
background:linear-gradient(90deg,var(--behind) 50%,transparent) 0 0/2rem 100% no-repeat local,\
linear-gradient(270deg,var(--behind) 50%,transparent) 100% 0/2rem 100% no-repeat local,\
linear-gradient(90deg,var(--shade),transparent) 0 0/.8rem 100% no-repeat scroll,\
linear-gradient(270deg,var(--shade),transparent) 100% 0/.8rem 100% no-repeat scroll}\
.wide:focus-visible,a:focus-visible,summary:focus-visible{outline:3px solid var(--focus);outline-offset:2px}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{text-align:right;padding:.28rem .55rem;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}\
th:first-child,td:first-child,.left{text-align:left}tbody th,thead th:first-child:not(.left){position:sticky;left:0;background:var(--behind)}\
.text{white-space:normal;min-width:12rem;overflow-wrap:anywhere}\
thead th{border-bottom:2px solid var(--line)}.best{font-weight:650}\
figure{margin:.6rem 0;max-width:60rem}svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font:13px system-ui,sans-serif}\
.grid{stroke:var(--line)}.legend{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.3rem 0;padding:0;list-style:none;font-size:.92rem}\
.legend svg{display:inline-block;width:34px;height:12px;margin-right:.4rem;vertical-align:middle}\
.phone{display:none}details{--behind:var(--box);border:1px solid var(--line);border-radius:.4rem;margin:.6rem 0;background:var(--box)}\
summary{cursor:pointer;padding:.5rem .8rem}details>div{padding:0 .8rem .8rem}\
ol.items{margin:.2rem 0 .6rem;padding-left:1.6rem}ol.items li{overflow-wrap:anywhere}.hit{font-weight:650}\
.users{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(17rem,100%),1fr));gap:0 1.5rem}\
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--page);padding:.4rem}\
@media(max-width:600px){.desk{display:none}.phone{display:block}\
tbody th{white-space:normal;min-width:6.5rem;max-width:9rem;overflow-wrap:break-word}}@media print{.desk{display:block}.phone{display:none}details{break-inside:avoid}}";
