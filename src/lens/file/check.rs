//! The rules of a lens file.

use std::collections::BTreeSet;

use super::{Addition, Decomposition, Error, FORMAT, LensFile, LensPoint, MAX_LAYERS, Part, Section, Spread, VERSION};

/// Amount by which rounding may push a cosine or a share above 1.
const ROUNDING: f64 = 1e-3;

impl LensFile {
    /// Checks the rules of the format. This happens on reading and on writing.
    ///
    /// # Errors
    /// The rule that the contents break.
    pub fn check(&self) -> Result<(), Error> {
        check_head(&self.format, self.version)?;
        let n_layer = self.model.n_layer;
        if !(1..=MAX_LAYERS).contains(&n_layer) {
            return broken(format!("the lens file's model has {n_layer} layers, expected 1 to {MAX_LAYERS}"));
        }
        if let Some(Section::Measured(lens)) = &self.lens {
            ascending("lens", lens.layers.iter().map(|l| l.layer), n_layer)?;
            let within = lens.layers.iter().filter_map(|l| l.after_attention.as_ref());
            let mut points = lens.embedding.iter().chain(lens.layers.iter().map(|l| &l.point)).chain(within);
            points.try_for_each(check_point)?;
        }
        if let Some(Section::Measured(prism)) = &self.prism {
            check_decomposition(&prism.next_token, n_layer)?;
            prism.likeliest_token.iter().try_for_each(|prism| check_decomposition(prism, n_layer))?;
        }
        if let Some(Section::Measured(similarity)) = &self.similarity {
            ascending("similarity", similarity.layers.iter().map(|l| l.layer), n_layer)?;
            for layer in &similarity.layers {
                let parts = [Some(layer.whole), layer.attention, layer.feed_forward];
                parts
                    .iter()
                    .flatten()
                    .try_for_each(|s| check_spread("similarity", s, -1.0 - ROUNDING, 1.0 + ROUNDING))?;
                let distances = layer.distance.map(|d| [Some(d.whole), d.attention, d.feed_forward]);
                let mut distances = distances.iter().flatten().flatten();
                distances.try_for_each(|s| check_spread("similarity", s, 0.0, f64::INFINITY))?;
            }
        }
        Ok(())
    }
}

fn broken(rule: String) -> Result<(), Error> {
    Err(Error::Rule(rule))
}

fn wrong_layer(section: &str, layer: u32, n_layer: u32) -> Result<(), Error> {
    broken(format!(
        "layer {layer} of '{section}' is out of order, a duplicate, or not below the model's {n_layer} layers"
    ))
}

pub(super) fn check_head(format: &str, version: u32) -> Result<(), Error> {
    if format != FORMAT {
        return broken(format!("not a lens file: 'format' is \"{format}\", expected \"{FORMAT}\""));
    }
    if version != VERSION {
        return broken(format!("the lens file's version is {version}, expected {VERSION}"));
    }
    Ok(())
}

fn ascending(section: &str, layers: impl Iterator<Item = u32>, n_layer: u32) -> Result<(), Error> {
    let mut next = 0;
    for layer in layers {
        if layer < next || layer >= n_layer {
            return wrong_layer(section, layer, n_layer);
        }
        next = layer + 1;
    }
    Ok(())
}

fn check_point(point: &LensPoint) -> Result<(), Error> {
    // Rounding can make the divergence of a distribution from itself slightly negative.
    check_spread("lens", &point.kl, -ROUNDING, f64::INFINITY)?;
    within("lens", "a top-1 agreement of", point.top1_agreement, 0.0, 1.0 + ROUNDING, "0 to 1")
}

fn check_decomposition(prism: &Decomposition, n_layer: u32) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for p in &prism.parts {
        let fits = match p.part {
            Part::Embedding | Part::NormBias | Part::OutputBias | Part::Rounding => p.layer.is_none(),
            Part::Attention | Part::FeedForward | Part::SharedExperts | Part::RoutedExperts => p.layer.is_some(),
            Part::Other => true,
        };
        if !fits || !seen.insert((p.layer, p.part)) {
            let (part, layer) = (p.part, p.layer);
            return broken(format!(
                "part '{part:?}' of 'prism' has layer {layer:?}: missing, unexpected, or a duplicate"
            ));
        }
        if let Some(layer) = p.layer.filter(|&layer| layer >= n_layer) {
            return wrong_layer("prism", layer, n_layer);
        }
        // Details may cancel each other, so a detail may be larger than its part.
        let most = if p.part.is_detail() { f64::INFINITY } else { 1.0 + ROUNDING };
        [p.raw, p.relative].iter().try_for_each(|addition| check_addition(addition, most))?;
    }
    ascending("prism", prism.layers.iter().map(|l| l.layer), n_layer)?;
    let mut of_layers = prism.layers.iter().flat_map(|l| [l.raw, l.relative]);
    of_layers.try_for_each(|addition| check_addition(&addition, 1.0 + ROUNDING))
}

fn check_addition(addition: &Addition, most: f64) -> Result<(), Error> {
    within("prism", "a mean absolute value of", addition.mean_abs, 0.0, f64::INFINITY, "0 or more")?;
    within("prism", "a share of", addition.share, 0.0, most, "0 to 1")
}

fn check_spread(section: &str, s: &Spread, least: f64, most: f64) -> Result<(), Error> {
    let quantiles = [s.p5, s.p25, s.p50, s.p75, s.p95];
    let expected = if most.is_finite() { "-1 to 1" } else { "0 or more" };
    within(section, "a mean of", s.mean, least, most, expected)?;
    for x in quantiles {
        within(section, "a quantile of", x, least, most, expected)?;
    }
    match quantiles.windows(2).find(|pair| pair[0] > pair[1]) {
        Some(pair) => {
            broken(format!("'{section}' has a quantile of {}, expected at least the quantile before", pair[1]))
        }
        None => Ok(()),
    }
}

/// Checks a range. NaN passes, since it stands for an undefined number.
fn within(section: &str, what: &str, found: f64, least: f64, most: f64, expected: &str) -> Result<(), Error> {
    if found < least || found > most {
        return broken(format!("'{section}' has {what} {found}, expected {expected}"));
    }
    Ok(())
}
