//! A reader of one's own: a format in which a line is a user and the items that the user chose, oldest first.
//!
//!     cargo run --release --example own_reader -- FILE

use lumos::data::{Progress, RawBuilder, RawData, Reader, Source, register_reader};
use lumos::{DataSettings, Error, Silent, load_settings, prepare_data};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// `ann: tea, milk, bread`
struct Baskets;

impl Reader for Baskets {
    fn name(&self) -> &'static str {
        "baskets"
    }

    fn read(&self, _: &DataSettings, inter: Option<&mut Source>, _: Option<&mut Source>, _: &Progress) -> lumos::Result<RawData> {
        let source = inter.ok_or_else(|| Error::setting("data.inter", "is not set; name the file of baskets"))?;
        let path = source.path().to_path_buf();
        let mut raw = RawBuilder::new(false);
        for (number, line) in (1..).zip(source.content().lines()) {
            let line = line.map_err(Error::io(&path, "read"))?;
            let message = "a line is `USER: ITEM, ITEM, ...`".to_string();
            let (user, items) = line.split_once(':').ok_or_else(|| Error::Data { path: path.clone(), line: number, message })?;
            for item in items.split(',') {
                raw.interaction(&path, number, user.trim(), item.trim(), None)?;
            }
        }
        raw.end_interactions(&path)?;
        Ok(raw.finish())
    }
}

/// Users and items of `file`, prepared in `folder`.
pub fn run(file: &Path, folder: &Path) -> lumos::Result<(usize, usize)> {
    register_reader(Baskets)?;
    let sets = ["data.format=baskets".to_string(), format!("data.inter={}", file.display())];
    let settings = load_settings(None, &sets)?.settings.with(|s| s.data.dir = Some(folder.join("baskets")))?;
    let (data, _) = prepare_data(&settings, false, &Silent)?;
    println!("{} users, {} items", data.users(), data.item_count());
    Ok((data.users(), data.item_count()))
}

#[allow(dead_code)] // The tests call `run`.
fn main() -> lumos::Result<()> {
    let file = std::env::args_os().nth(1).map(PathBuf::from);
    let file = file.ok_or_else(|| Error::Usage("name a file of lines such as `ann: tea, milk, bread`".into()))?;
    run(&file, Path::new("data")).map(drop)
}
