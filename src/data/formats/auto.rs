//! `auto`: the format that an interactions file is in, by its content; the catalogue is taken to be in the same one.

use super::recognise::{Given, columnar, recognise};
use super::{arrow, parquet};
use crate::Result;
use crate::base::clean;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::columns::no_interactions;
use crate::data::reader::{RawData, Reader, also, data_error, reader};
use crate::data::source::Source;

/// Recognises the other formats.
pub struct Auto;

impl Reader for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let source = inter.ok_or_else(no_interactions)?;
        let default = DataSettings::default();
        let other = |name: &str, usual: &str| (name != usual).then(|| name.to_owned());
        let (user, item) = (other(&settings.user_column, &default.user_column), other(&settings.item_column, &default.item_column));
        let given = Given { separator: &settings.separator, user: user.as_deref(), item: item.as_deref() };
        let head = source.peek()?;
        let found = if head.starts_with(b"PAR1") {
            Some(columnar("parquet", "PAR1", &parquet::names(source)?))
        } else if head.starts_with(arrow::MAGIC) {
            Some(columnar("arrow", "ARROW1", &arrow::names(source)?))
        } else {
            recognise(head, given)
        };
        let found = found.ok_or_else(|| {
            let message = "is in no format that is recognised by its first lines; name it by data.format, and for a table with a header \
                           of other names data.user_column and data.item_column";
            data_error(source.path(), 1, message)
        })?;
        let mut settings = DataSettings { format: found.format.into(), ..settings.clone() };
        let mut words = format!("recognised as `{}` ({})", found.format, found.because);
        if let Some(table) = found.table {
            if settings.separator.is_empty() && table.separator != "," {
                settings.separator = table.separator;
            }
            let mut columns = Vec::new();
            for (what, set, usual, here) in [
                ("user", &mut settings.user_column, &default.user_column, table.user),
                ("item", &mut settings.item_column, &default.item_column, table.item),
                ("time", &mut settings.time_column, &default.time_column, table.time),
            ] {
                if set == usual {
                    // Without a column of times the order of the file is that of time, which is said.
                    *set = here.unwrap_or_else(|| if what == "time" { String::new() } else { usual.clone() });
                }
                let name = if set.is_empty() { "none, the order of the file".to_owned() } else { format!("`{}`", clean::id(set)) };
                columns.push(format!("{what} {name}"));
            }
            words.push_str(&format!("; columns: {}", columns.join(", ")));
        }
        // What is wrong may be what the file was taken for.
        let read = reader(found.format)?.read(&settings, Some(source), items, progress);
        let mut raw = read.map_err(|error| also(error, &words))?;
        raw.notes.recognised = Some(words);
        Ok(raw)
    }
}
