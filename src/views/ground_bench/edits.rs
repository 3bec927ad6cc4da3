//! How a language model gets a title wrong, and lines that are no titles: by chance, but the same for the same seed.

use crate::base::rng::Stream;

/// Ways of editing a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// One letter in eight, at least one, is left out, doubled, exchanged with the next or put in place of another.
    Typos,
    /// The last third of the words is missing.
    Cut,
    /// A year in brackets is added, or taken away where there is one.
    Year,
    /// `The X` as `X, The` and the other way round.
    Article,
    /// The words in another order.
    Order,
    /// Words for which another is as good: `&` and `and`, digits and numerals, common nouns.
    Synonyms,
    /// A sentence around it.
    Wrapped,
}

impl Edit {
    /// All, with their names in tables.
    pub const ALL: [(Edit, &str); 7] = [
        (Edit::Typos, "typos"),
        (Edit::Cut, "end missing"),
        (Edit::Year, "year added or dropped"),
        (Edit::Article, "article moved"),
        (Edit::Order, "words shuffled"),
        (Edit::Synonyms, "words exchanged"),
        (Edit::Wrapped, "in a sentence"),
    ];

    /// `title` edited; `None` where this edit changes nothing.
    pub fn apply(self, title: &str, stream: &mut Stream) -> Option<String> {
        let words: Vec<&str> = title.split_whitespace().collect();
        let edited = match self {
            Edit::Typos => typos(title, stream),
            Edit::Cut => words[..words.len() - words.len().div_ceil(3).min(words.len().saturating_sub(1))].join(" "),
            Edit::Year => match title.rsplit_once(" (").filter(|(_, end)| end.len() == 5 && end.ends_with(')')) {
                Some((start, _)) => start.to_owned(),
                None => format!("{title} ({})", 1960 + stream.below(60)),
            },
            Edit::Article => article(title)?,
            Edit::Order => {
                let mut words = words;
                stream.shuffle(&mut words);
                words.join(" ")
            }
            Edit::Synonyms => words.iter().map(|w| synonym(w)).collect::<Vec<_>>().join(" "),
            Edit::Wrapped => {
                let (before, after) = AROUND[stream.below(AROUND.len() as u64) as usize];
                format!("{before}{title}{after}")
            }
        };
        (edited != title && !edited.is_empty()).then_some(edited)
    }
}

const AROUND: [(&str, &str); 6] = [
    ("I would suggest ", ""),
    ("", " - a natural next choice"),
    ("They may like ", " as well"),
    ("", ", because it is similar to what they had"),
    ("Another good one is ", "."),
    ("", " (highly rated)"),
];

fn typos(title: &str, stream: &mut Stream) -> String {
    let mut chars: Vec<char> = title.chars().collect();
    let letters = chars.iter().filter(|c| c.is_alphabetic()).count();
    if letters == 0 {
        return title.to_owned();
    }
    for _ in 0..(letters / 8).max(1) {
        let at = stream.below(chars.len() as u64) as usize;
        match (stream.below(4), chars.get(at + 1).copied()) {
            (0, _) if chars.len() > 1 => drop(chars.remove(at)),
            (1, _) => chars.insert(at, chars[at]),
            (2, Some(_)) => chars.swap(at, at + 1),
            _ => chars[at] = char::from(b'a' + stream.below(26) as u8),
        }
    }
    chars.into_iter().collect::<String>().trim().to_owned()
}

const ARTICLES: [&str; 9] = ["The", "A", "An", "Le", "La", "Les", "Il", "Der", "Das"];

fn article(title: &str) -> Option<String> {
    for article in ARTICLES {
        if let Some(rest) = title.strip_prefix(article).and_then(|r| r.strip_prefix(' ')) {
            return Some(format!("{rest}, {article}"));
        }
        if let Some(rest) = title.strip_suffix(article).and_then(|r| r.strip_suffix(", ")) {
            return Some(format!("{article} {rest}"));
        }
    }
    None
}

const SYNONYMS: [(&str, &str); 36] = [
    ("&", "and"),
    ("and", "&"),
    ("2", "II"),
    ("3", "III"),
    ("II", "2"),
    ("III", "3"),
    ("IV", "4"),
    ("oz", "ounce"),
    ("Oz", "Ounce"),
    ("Ounce", "oz"),
    ("Ounces", "oz"),
    ("oz.", "ounces"),
    ("Pack", "Set"),
    ("Set", "Kit"),
    ("Kit", "Set"),
    ("Cream", "Lotion"),
    ("Lotion", "Cream"),
    ("Shampoo", "Hair Wash"),
    ("Hair", "Tresses"),
    ("Body", "Skin"),
    ("Soap", "Cleanser"),
    ("Cleanser", "Wash"),
    ("Perfume", "Fragrance"),
    ("Spray", "Mist"),
    ("Women", "Ladies"),
    ("Men", "Gentlemen"),
    ("Man", "Guy"),
    ("Story", "Tale"),
    ("Movie", "Film"),
    ("Dead", "Deceased"),
    ("Love", "Romance"),
    ("Night", "Evening"),
    ("Home", "House"),
    ("Big", "Large"),
    ("Little", "Small"),
    ("Children", "Kids"),
];

fn synonym(word: &str) -> &str {
    SYNONYMS.iter().find(|(from, _)| *from == word).map_or(word, |(_, to)| *to)
}

/// Lines that models write beside titles.
pub const TALK: [&str; 20] = [
    "Here are some items that this user may like next:",
    "I hope this helps!",
    "Sure, I can help you with that.",
    "Based on the history, the user enjoys a mix of genres.",
    "Note that these are only suggestions.",
    "Let me know if you would like more.",
    "As a language model I cannot know what is in the catalogue.",
    "The user seems to prefer well-known brands.",
    "N/A",
    "None of the above",
    "Once upon a time there was a little girl named Sue.",
    "She was very happy and ran home to her mother.",
    "Item 1",
    "title (category / narrower category)",
    "These choices keep the same intent in other items.",
    "A heart-warming tale of friendship between a boy and his dog",
    "Something moisturising with a light scent",
    "The opposite of what they usually choose",
    "I am sorry, but I cannot answer this question.",
    "End of list.",
];

/// A title that no item has: words of three of `titles`, where they are not one of these.
pub fn made_up(titles: &[String], stream: &mut Stream) -> String {
    let mut words = Vec::new();
    for _ in 0..3 {
        let title: Vec<&str> = titles[stream.below(titles.len() as u64) as usize].split_whitespace().collect();
        let take = 1 + stream.below(2) as usize;
        let from = stream.below((title.len().saturating_sub(take) + 1) as u64) as usize;
        words.extend_from_slice(&title[from..title.len().min(from + take)]);
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Purpose;

    #[test]
    fn every_edit_changes_what_it_says() {
        let mut stream = Stream::new(1, Purpose::Bench, 0, 0);
        let mut edit = |edit: Edit, title: &str| edit.apply(title, &mut stream);
        assert_eq!(edit(Edit::Article, "The Red Ball").unwrap(), "Red Ball, The");
        assert_eq!(edit(Edit::Article, "Red Ball, The").unwrap(), "The Red Ball");
        assert_eq!(edit(Edit::Article, "Red Ball"), None);
        assert_eq!(edit(Edit::Cut, "Red Ball of the Sea").unwrap(), "Red Ball of");
        assert_eq!(edit(Edit::Cut, "Ball"), None);
        assert_eq!(edit(Edit::Year, "Red Ball (1995)").unwrap(), "Red Ball");
        assert!(edit(Edit::Year, "Red Ball").unwrap().starts_with("Red Ball ("));
        assert_eq!(edit(Edit::Synonyms, "Cat & Dog Story II").unwrap(), "Cat and Dog Tale 2");
        assert!(edit(Edit::Wrapped, "Red Ball").unwrap().contains("Red Ball"));
        assert_eq!(edit(Edit::Order, "Ball"), None);
        for title in ["x", "Red Ball", "42", "\u{e9}t\u{e9} \u{e0} la mer"] {
            for _ in 0..50 {
                assert!(edit(Edit::Typos, title).is_none_or(|t| t != title && !t.is_empty()));
            }
        }
        let titles: Vec<String> = ["Red Ball", "x", "Of the Sea and Land"].map(String::from).into();
        assert!((0..50).all(|_| (2..=6).contains(&made_up(&titles, &mut stream).split(' ').count()) || titles.is_empty()));
    }
}
