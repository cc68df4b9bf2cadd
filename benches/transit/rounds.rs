//! Figures of several rounds. Only figures of the same round are compared with each other.

/// One figure of each round.
#[derive(Default, Clone)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    pub fn median(&self) -> f64 {
        percentile(self.0.clone(), 50)
    }

    /// Each round's figure, as a multiple of another's in the same round.
    pub fn against(&self, base: &Self) -> Self {
        Self(self.0.iter().zip(&base.0).map(|(mine, other)| mine / other).collect())
    }

    /// The median, and the lowest and the highest round.
    pub fn text(&self, digits: usize) -> String {
        if self.0.is_empty() {
            return "–".to_owned();
        }
        let lowest = percentile(self.0.clone(), 0);
        let highest = percentile(self.0.clone(), 100);
        format!("{:.digits$} ({lowest:.digits$}–{highest:.digits$})", self.median())
    }
}

/// The value that this part of the others does not exceed.
pub fn percentile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent / 100).min(values.len() - 1)]
}
