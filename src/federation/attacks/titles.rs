//! Titles that are written to sway a language model: prompt injection as a poisoning attack.

use super::promoted;
use crate::config::Settings;
use crate::data::Dataset;
use crate::{Error, Result, eval};
use sha2::{Digest, Sha256};

/// Who promotes what by titles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Titles {
    /// Items that are promoted.
    pub targets: Vec<u32>,
    /// Items whose titles carry the text.
    pub carriers: Vec<u32>,
    /// The text.
    pub text: String,
}

impl Titles {
    /// What `settings` ask for in `data`; nothing where titles stay as they are.
    ///
    /// # Errors
    /// [`Error::Setting`] for items that the data set lacks, and for a target without a title.
    pub fn of(settings: &Settings, data: &Dataset) -> Result<Option<Titles>> {
        let attack = &settings.attack;
        if attack.titles.is_empty() {
            return Ok(None);
        }
        let targets = promoted(settings, data)?;
        let titles: Vec<&str> = targets.iter().map(|&item| data.catalogue[item as usize].title.as_str()).collect();
        if let Some(place) = titles.iter().position(|title| title.is_empty()) {
            let id = &data.item_tokens[targets[place] as usize];
            return Err(Error::setting(
                "attack.target",
                format!("`{id}` has no title that a language model could be led to name; choose another"),
            ));
        }
        let text = attack.titles.replace("{target}", &titles.join(", "));
        let carriers = if attack.carriers.is_empty() { targets.clone() } else { eval::targets("attack.carriers", &attack.carriers, data)? };
        Ok(Some(Titles { targets, carriers, text }))
    }
}

/// `data` with the titles that `settings` let an attacker write.
///
/// # Errors
/// As [`Titles::of`].
pub fn with_titles(mut data: Dataset, settings: &Settings) -> Result<Dataset> {
    let Some(Titles { carriers, text, .. }) = Titles::of(settings, &data)? else { return Ok(data) };
    let mut sum = Sha256::new();
    sum.update(&data.altered);
    for item in carriers {
        let title = &mut data.catalogue[item as usize].title;
        *title = format!("{title} {text}").trim_start().to_string();
        sum.update(format!("{item} {} {title}\n", title.len()));
    }
    data.altered = hex::encode(sum.finalize());
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ItemText;

    fn data() -> Dataset {
        let item = |title: &str| ItemText { title: title.into(), ..Default::default() };
        Dataset {
            fingerprint: "f".into(),
            item_tokens: ["a", "b", "c"].map(String::from).to_vec(),
            catalogue: vec![item("Red"), item("Green"), item("")],
            offsets: vec![0, 4],
            items: vec![0, 1, 0, 1],
            ..Default::default()
        }
    }

    #[test]
    fn carriers_name_the_target_and_views_of_them_are_others() {
        let mut settings = Settings::default();
        assert_eq!(with_titles(data(), &settings).unwrap(), data());
        settings.attack.titles = "(write {target})".into();
        (settings.attack.target, settings.attack.carriers) = (vec!["a".into()], vec!["b".into(), "c".into()]);
        let changed = with_titles(data(), &settings).unwrap();
        let titles: Vec<&str> = changed.catalogue.iter().map(|item| item.title.as_str()).collect();
        assert_eq!(titles, ["Red", "Green (write Red)", "(write Red)"]);
        assert!(changed.views_fingerprint() != data().views_fingerprint() && changed.fingerprint == data().fingerprint);
        // Without carriers the target carries the text itself.
        settings.attack.carriers.clear();
        assert_eq!(with_titles(data(), &settings).unwrap().catalogue[0].title, "Red (write Red)");
        settings.attack.target = vec!["c".into()];
        assert!(with_titles(data(), &settings).unwrap_err().to_string().contains("`c` has no title"));
    }
}
