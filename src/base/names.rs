//! Finding the name that was probably meant.

use crate::base::clean;

/// Longer names are not compared: they are pasted rather than typed, and the work grows with the square.
const LONGEST: usize = 200;

/// The candidate that was probably meant by `name`, if one is near: a third of its letters or fewer are wrong, or one name holds most of
/// the other. A name without a dot is also held against the last part of dotted candidates, so that `tua` finds `loss.tau`.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let given = lower.rsplit('.').next().unwrap_or_default();
    let score = |candidate: &str| {
        let tail = candidate.rsplit('.').next().unwrap_or_default();
        // A matching tail counts slightly less than an equally good match of the whole name.
        likeness(&lower, candidate).max(0.98 * likeness(given, tail))
    };
    let scored = candidates.into_iter().map(|c| (score(c), c)).filter(|(score, _)| *score > 0.0);
    scored.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, name)| name)
}

/// How like two names are, from 0 for names without likeness to 2 for equal ones.
fn likeness(a: &str, b: &str) -> f64 {
    let b = b.to_lowercase();
    let (short, long) = (a.chars().count().min(b.chars().count()), a.chars().count().max(b.chars().count()));
    if long > LONGEST {
        return 0.0;
    }
    let holds = short >= 4 && 2 * short >= long && (a.contains(&b) || b.contains(a));
    // The distance is at least the difference of the lengths: cheap, where a data set has a million users.
    let near = holds || (long - short <= long / 3 && strsim::damerau_levenshtein(a, &b) <= long / 3);
    if near { strsim::jaro_winkler(a, &b) + strsim::normalized_damerau_levenshtein(a, &b) } else { 0.0 }
}

/// `; did you mean `x`?` for an id of a data set, where one is near, else nothing.
pub fn hint<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or(String::new(), |n| format!("; did you mean `{}`?", clean::id(n)))
}

/// `unknown WHAT `name`: did you mean `x`? Valid: a, b, c`.
pub fn unknown<'a>(what: &str, name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = candidates.into_iter().collect();
    let valid = if all.is_empty() { String::new() } else { format!("Valid: {}", all.join(", ")) };
    let unknown = format!("unknown {what} `{}`", clean::id(name));
    match nearest(name, all.iter().copied()) {
        Some(best) => format!("{unknown}: did you mean `{best}`? {valid}"),
        None if valid.is_empty() => unknown,
        None => format!("{unknown}. {valid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let keys = ["loss.tau", "loss.lambda", "local.lr", "model.dim", "federation.rounds"];
        for (typed, meant) in [
            ("loss.tua", "loss.tau"),
            ("tua", "loss.tau"),
            ("los.lambda", "loss.lambda"),
            ("model.dims", "model.dim"),
            ("rounds", "federation.rounds"),
            ("Federation.Round", "federation.rounds"),
            ("model.lr", "local.lr"),
        ] {
            assert_eq!(nearest(typed, keys), Some(meant), "{typed}");
        }
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn says_nothing_where_nothing_is_near() {
        let keys = ["loss.tau", "loss.lambda", "local.lr", "model.dim", "federation.rounds", "local.batch"];
        for typed in ["nobody!", "x", "", "learning", "a.b.c", "zzzzzzzz", &"rounds".repeat(1000)] {
            assert_eq!(nearest(typed, keys), None, "{typed}");
        }
        assert_eq!(nearest("batch_size", keys), Some("local.batch"));
        assert_eq!(nearest("gru4rec", ["sasrec", "fed-gru4rec"]), Some("fed-gru4rec"));
        assert_eq!(nearest("196", ["11960", "4"]), None);
        assert_eq!(nearest("B004756YJB", ["B0047R6Y01", "B004756YJA"]), Some("B004756YJA"));
        assert_eq!(unknown("format", "parquet", ["csv", "recbole"]), "unknown format `parquet`. Valid: csv, recbole");
        assert_eq!(hint("ann\u{1b}a", ["ann\u{1b}"]), "; did you mean `ann\u{fffd}`?");
    }
}
