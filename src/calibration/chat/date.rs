use std::str::FromStr;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The day that templates use as today, at midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// The 26th of July 2024, which Llama 3's templates use without a clock.
impl Default for Date {
    fn default() -> Self {
        Self { year: 2024, month: 7, day: 26 }
    }
}

impl FromStr for Date {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("'{text}' is no date as in 2024-07-26");
        let [year, month, day] = text.split('-').collect::<Vec<_>>()[..] else { return Err(error()) };
        let number = |digits: &str, len| {
            let plain = digits.len() == len && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|_| plain).ok_or_else(error)
        };
        let (year, month, day) = (number(year, 4)?, number(month, 2)?, number(day, 2)?);
        if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month as u8) {
            return Err(error());
        }
        Ok(Self { year, month: month as u8, day: day as u8 })
    }
}

fn days_in(year: u16, month: u8) -> u16 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Date {
    /// As Python's `strftime`, in English.
    ///
    /// # Errors
    /// A letter that is not a format code.
    pub(crate) fn format(self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let letter = letters.next();
            let plain = letter == Some('-'); // without zeros in front
            let letter = if plain { letters.next() } else { letter };
            let number = |n: u16, width: usize| if plain { n.to_string() } else { format!("{n:0width$}") };
            let (month, weekday) = (MONTHS[usize::from(self.month) - 1], DAYS[self.weekday()]);
            let text = match letter {
                Some('Y') => number(self.year, 4),
                Some('y') => number(self.year % 100, 2),
                Some('m') => number(self.month.into(), 2),
                Some('d') => number(self.day.into(), 2),
                Some('e') => format!("{:2}", self.day),
                Some('j') => number(self.day_of_year(), 3),
                Some('B') => month.to_owned(),
                Some('b' | 'h') => month[..3].to_owned(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday[..3].to_owned(),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('p') => "AM".to_owned(),
                Some('F') => format!("{:04}-{:02}-{:02}", self.year, self.month, self.day),
                Some('T') => "00:00:00".to_owned(),
                Some('%') => "%".to_owned(),
                Some(other) => return Err(format!("strftime_now: %{other} is not known")),
                None => return Err("strftime_now: a % at the end of the format".to_owned()),
            };
            out += &text;
        }
        Ok(out)
    }

    fn day_of_year(self) -> u16 {
        (1..self.month).map(|month| days_in(self.year, month)).sum::<u16>() + u16::from(self.day)
    }

    /// Returns the day of the week, 0 for Sunday. The calendar repeats every 400 years, which begin on a Saturday.
    fn weekday(self) -> usize {
        let years = usize::from(self.year) % 400;
        let leap_days = if years == 0 { 0 } else { (years - 1) / 4 + 1 - (years - 1) / 100 };
        (6 + years + leap_days + usize::from(self.day_of_year()) - 1) % 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(date: &str, format: &str) -> String {
        date.parse::<Date>().unwrap().format(format).unwrap()
    }

    /// What Python 3 prints.
    #[test]
    fn dates_equal_pythons() {
        for (date, text) in [
            ("2024-07-26", "Friday Fri 208 24"),
            ("2000-01-01", "Saturday Sat 001 00"),
            ("2000-12-31", "Sunday Sun 366 00"),
            ("1999-12-31", "Friday Fri 365 99"),
            ("2001-03-01", "Thursday Thu 060 01"),
            ("2023-02-28", "Tuesday Tue 059 23"),
            ("2100-03-01", "Monday Mon 060 00"),
            ("1970-01-01", "Thursday Thu 001 70"),
            ("2026-11-24", "Tuesday Tue 328 26"),
        ] {
            assert_eq!(format(date, "%A %a %j %y"), text, "{date}");
        }
        assert_eq!(
            format("2024-07-06", "%d %B %Y|%-d %b|%e|%F %T|%H:%M %I %p|100%%"),
            "06 July 2024|6 Jul| 6|2024-07-06 00:00:00|00:00 12 AM|100%"
        );
        assert!(Date::default().format("%").is_err() && Date::default().format("%Q").is_err());
    }

    #[test]
    fn only_dates_are_dates() {
        assert_eq!("2024-07-26".parse(), Ok(Date::default()));
        assert!("2024-02-29".parse::<Date>().is_ok());
        for text in [
            "",
            "2023-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-1-1",
            "24-01-01",
            "+024-01-01",
            "2024-01-01-",
        ] {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
    }
}
