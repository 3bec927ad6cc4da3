//! `lumos report` by keyboard alone, and pictures of it at the widths of a desk and of a phone.

use crate::real;
use crate::report_page::page;
use crate::sandbox::Sandbox;
use crate::webdriver::Browser;
use std::path::PathBuf;

/// The keys as WebDriver names them.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const RIGHT: &str = "\u{e014}";

/// What has the focus: its place among what can have it, and whether one sees that it has.
const FOCUS: &str = "const all=[...document.querySelectorAll('a,summary,.wide')].filter(e=>e.checkVisibility());\
const e=document.activeElement,s=getComputedStyle(e),r=e.getBoundingClientRect();\
return [all.indexOf(e),all.length,s.outlineStyle!=='none'&&r.right>0&&r.bottom>0&&r.top<innerHeight]";

#[test]
fn everything_is_reached_by_keyboard_and_pictures_are_as_wide_as_asked() {
    let sandbox = Sandbox::new();
    let Some(browser) = Browser::start(&sandbox.path().join("profile")) else {
        real::skip::<()>("no chromium with chromedriver is installed");
        return;
    };
    page(&sandbox);
    let file = sandbox.path().join("report.html");
    for (width, dark) in [(1280_u32, false), (1280, true), (390, false), (390, true)] {
        browser.open(&file, width, dark);
        let png = browser.picture();
        assert!(png.starts_with(b"\x89PNG") && png[16..20] == width.to_be_bytes(), "{width}: {:?}", &png[..24]);
        if let Some(folder) = std::env::var_os("LUMOS_SCREENSHOTS") {
            std::fs::create_dir_all(&folder).unwrap();
            let name = format!("report-{width}-{}.png", if dark { "dark" } else { "light" });
            std::fs::write(PathBuf::from(folder).join(name), png).unwrap();
        }
    }

    // The last one: a phone's width, where tables are wider than the page.
    browser.press(TAB);
    assert_eq!(browser.run("return document.activeElement.className"), "skip");
    assert_eq!(browser.run(FOCUS)[2], true, "the link to the figures is seen once it has the focus");
    browser.press(ENTER);
    assert_eq!(browser.run("return location.hash"), "#main");
    browser.open(&file, 390, false);
    let all = browser.run(FOCUS)[1].as_u64().unwrap();
    for place in 0..all {
        browser.press(TAB);
        let found = browser.run(FOCUS);
        assert_eq!((&found[0], &found[2]), (&place.into(), &true.into()), "stop {place} of {all}: {found}");
        if browser.run("return document.activeElement.tagName") == "SUMMARY" {
            let is_open = || browser.run("return document.activeElement.parentElement.open");
            let before = is_open();
            browser.press(ENTER);
            assert_ne!(is_open(), before, "a fold opens and closes");
            browser.press(ENTER);
            assert_eq!(is_open(), before);
        }
    }
    assert!(all > 6, "{all}");
    browser.run("document.querySelector('.wide').focus()");
    browser.press(RIGHT);
    let moved = (0..50).any(|_| browser.run("return document.activeElement.scrollLeft>0") == true);
    assert!(moved, "the table of methods is moved by keys where it is wider than the page");
}
