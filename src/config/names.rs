//! Finding the name that was probably meant.

/// The candidate closest to `name`. A name without a dot is also held against the last part of dotted candidates, so that `tua` finds
/// `loss.tau`.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let score = |candidate: &str| {
        let whole = strsim::jaro_winkler(&lower, candidate) + strsim::normalized_damerau_levenshtein(&lower, candidate);
        let (Some(last), Some(given)) = (candidate.rsplit('.').next(), lower.rsplit('.').next()) else { return whole };
        let tail = strsim::jaro_winkler(given, last) + strsim::normalized_damerau_levenshtein(given, last);
        // A matching tail counts slightly less than an equally good match of the whole name.
        whole.max(tail * 0.98)
    };
    candidates.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// `unknown WHAT `name`: did you mean `x`? Valid: a, b, c`.
pub fn unknown<'a>(what: &str, name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = candidates.into_iter().collect();
    match nearest(name, all.iter().copied()) {
        Some(best) => format!("unknown {what} `{name}`: did you mean `{best}`? Valid: {}", all.join(", ")),
        None => format!("unknown {what} `{name}`"),
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
}
