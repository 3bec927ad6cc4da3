//! ReChorus (Wang et al., 2020): tables with tabs, `user_id`, `item_id` and `time`; `item_meta.csv` beside them.

use crate::Result;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::csv::Csv;
use crate::data::reader::{RawData, Reader};
use crate::data::source::Source;

/// Reader of ReChorus' tables.
pub struct ReChorus;

impl Reader for ReChorus {
    fn name(&self) -> &'static str {
        "rechorus"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let default = DataSettings::default();
        let mut settings = settings.clone();
        if settings.time_column == default.time_column {
            settings.time_column = "time".into();
        }
        if settings.separator.is_empty() {
            settings.separator = "tab".into();
        }
        Csv.read(&settings, inter, items, progress)
    }
}
