//! JSON lines: one object a line, whose keys are the columns that the settings name (`data.user_column` and the others).

use std::path::Path;

use super::keyed::{self, Each, Rows};
use super::objects::object;
use crate::Result;
use crate::config::DataSettings;
use crate::data::Progress;
use crate::data::columns::no_interactions;
use crate::data::reader::{RawData, Reader};
use crate::data::rows::{Encoding, each_line};
use crate::data::source::Source;

/// Reader of JSON lines.
pub struct JsonLines;

/// One object a line.
struct Lines<'s>(&'s mut Source);

impl Rows for Lines<'_> {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn each(&mut self, stage: &str, progress: &Progress, row: &mut Each) -> Result<()> {
        let path = self.0.path().to_path_buf();
        each_line(self.0, Encoding::Utf8, stage, progress, |line, text| row(line, text.and_then(|text| object(&path, line, text))))
    }
}

impl Reader for JsonLines {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn read(
        &self,
        settings: &DataSettings,
        inter: Option<&mut Source>,
        items: Option<&mut Source>,
        progress: &Progress,
    ) -> Result<RawData> {
        let mut items = items.map(Lines);
        let items = items.as_mut().map(|lines| lines as &mut dyn Rows);
        keyed::read(settings, &mut Lines(inter.ok_or_else(no_interactions)?), items, progress)
    }
}
