//! A picture in a file, as what the file's ending says: SVG, or PNG with the feature `png`.

use crate::base::files::write_file;
use crate::base::names;
use crate::{Error, Result};
use std::path::Path;

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// Lines and text, sharp at every size.
    Svg,
    /// Pixels, two to a unit of the SVG.
    Png,
}

impl PictureFormat {
    /// The format that the ending of `path` names.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it names another one or none, and where this build writes no PNG.
    pub fn of(path: &Path) -> Result<PictureFormat> {
        if path.is_dir() {
            return Err(Error::mismatch(path, "is a folder; name a file, such as plot.svg"));
        }
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        match ending.as_str() {
            "svg" => Ok(PictureFormat::Svg),
            "png" if cfg!(feature = "png") => Ok(PictureFormat::Png),
            "png" => {
                Err(Error::mismatch(path, "this build writes SVG alone; build it with `--features png`, or name a file that ends in .svg"))
            }
            "" => Err(Error::mismatch(path, "has no ending; a picture is written as .svg or .png, by its ending")),
            other => Err(Error::mismatch(path, names::unknown("ending of a picture", other, ["svg", "png"]))),
        }
    }
}

/// Writes `svg` to `path` in the format of its ending.
///
/// # Errors
/// Those of [`PictureFormat::of`]; where the file cannot be written; and for PNG where no font is installed.
pub fn write_picture(path: &Path, svg: &str) -> Result<()> {
    match PictureFormat::of(path)? {
        PictureFormat::Svg => write_file(path, svg.as_bytes()),
        PictureFormat::Png => write_file(path, &pixels(path, svg)?),
    }
}

/// Pixels of a unit of the SVG, so that a line of 12 units is read on a screen with small pixels and in print.
#[cfg(feature = "png")]
const SCALE: f32 = 2.0;

#[cfg(feature = "png")]
fn pixels(path: &Path, svg: &str) -> Result<Vec<u8>> {
    use resvg::{tiny_skia, usvg};
    let mut options = usvg::Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_system_fonts();
    // The picture asks for `system-ui, sans-serif`; whatever has letters is better than a picture without any.
    let wanted = ["DejaVu Sans", "Liberation Sans", "Noto Sans", "Arial", "Helvetica"];
    let has = |name: &str| fonts.faces().any(|face| face.families.iter().any(|(family, _)| family == name));
    let any = || fonts.faces().find_map(|face| face.families.first().map(|(family, _)| family.clone()));
    let found = wanted.into_iter().find(|name| has(name)).map(str::to_owned).or_else(any);
    let font = found.ok_or_else(|| {
        Error::mismatch(
            path,
            "no font is installed, so that a PNG would have no text; install one (Debian: fonts-dejavu-core), or write .svg",
        )
    })?;
    options.fontdb_mut().set_sans_serif_family(font.clone());
    options.font_family = font;
    let failed = |what: &str| Error::mismatch(path, format!("the picture cannot be drawn as PNG ({what}); write .svg"));
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| failed(&error.to_string()))?;
    let size = tree.size().to_int_size().scale_by(SCALE).ok_or_else(|| failed("it has no size"))?;
    let mut map = tiny_skia::Pixmap::new(size.width(), size.height()).ok_or_else(|| failed("it is too large"))?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(SCALE, SCALE), &mut map.as_mut());
    map.encode_png().map_err(|error| failed(&error.to_string()))
}

#[cfg(not(feature = "png"))]
fn pixels(path: &Path, _: &str) -> Result<Vec<u8>> {
    // `PictureFormat::of` has refused it before.
    PictureFormat::of(path).map(|_| Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_says_what_is_written() {
        assert_eq!(PictureFormat::of(Path::new("a/b.SVG")).unwrap(), PictureFormat::Svg);
        let refused = |path: &str| PictureFormat::of(Path::new(path)).unwrap_err().to_string();
        assert!(refused("a.svgz").contains("`svg`"), "{}", refused("a.svgz"));
        assert!(refused("a").contains(".svg or .png"));
        assert!(refused("a.jpg").contains("png"), "{}", refused("a.jpg"));
        match PictureFormat::of(Path::new("a.png")) {
            Ok(format) => assert_eq!(format, PictureFormat::Png),
            Err(error) => assert!(error.to_string().contains("--features png"), "{error}"),
        }
    }

    #[cfg(feature = "png")]
    #[test]
    fn a_png_has_the_size_of_the_picture_and_ink_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"40\" height=\"20\" viewBox=\"0 0 40 20\"><style>svg{background:#fff}</style>\
                   <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><line x1=\"0\" x2=\"40\" y1=\"10\" y2=\"10\" stroke=\"#000\" stroke-width=\"4\"/></svg>";
        write_picture(&path, svg).unwrap();
        let map = resvg::tiny_skia::Pixmap::load_png(&path).unwrap();
        assert_eq!((map.width(), map.height()), (80, 40));
        let at = |x, y| map.pixel(x, y).unwrap().red();
        assert_eq!((at(40, 20), at(40, 2)), (0, 255));
    }
}
