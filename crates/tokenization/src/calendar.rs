//! `strftime` for chat templates that print the date, in UTC and with English names. Knows no clock.

/// A point in time, taken apart in UTC by the proleptic Gregorian calendar.
struct CivilTime {
    year: i64,
    month: usize,
    day: i64,
    day_of_year: i64,
    weekday: usize,
    second_of_day: i64,
}

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
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The furthest time from 1970, either way: about 100,000 years.
const MAX_UNIX_SECONDS: i64 = 100_000 * 366 * 86_400;

impl CivilTime {
    /// `unix_s` is clamped to 100,000 years from 1970. The year begins in March in here, so that the leap day is its
    /// last: days from 0000-03-01, 400-year eras of 146,097 days, then `(153 m + 2) / 5` days before month m.
    fn from_unix(unix_s: i64) -> Self {
        let unix_s = unix_s.clamp(-MAX_UNIX_SECONDS, MAX_UNIX_SECONDS);
        let days = unix_s.div_euclid(86_400);
        let since_march_0 = days + 719_468;
        let era = since_march_0.div_euclid(146_097);
        let day_of_era = since_march_0.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let march_day = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * march_day + 2) / 153;
        let day = march_day - (153 * march_month + 2) / 5 + 1;
        let month = (march_month + 2) % 12;
        let year = era * 400 + year_of_era + i64::from(month < 2);
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let day_of_year = if month < 2 { march_day - 305 } else { march_day + 60 + i64::from(is_leap) };
        Self {
            year,
            month: month as usize,
            day,
            day_of_year,
            weekday: (days + 4).rem_euclid(7) as usize,
            second_of_day: unix_s.rem_euclid(86_400),
        }
    }
}

/// Writes `unix_s`, in seconds since 1970-01-01 00:00 UTC, by a format of C's `strftime`.
///
/// # Errors
/// A directive that is not one of `%A %a %B %b %d %e %F %H %I %j %M %m %p %S %T %Y %y %%`, or `%-` and one of the numbers.
pub(crate) fn strftime(unix_s: i64, format: &str) -> Result<String, String> {
    let time = CivilTime::from_unix(unix_s);
    let mut out = String::with_capacity(format.len() + 16);
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => out.push('%'),
            Some('-') => {
                let directive = characters.next().unwrap_or('-');
                let (value, _) = number(&time, directive).ok_or_else(|| format!("strftime directive %-{directive}"))?;
                out.push_str(&value.to_string());
            }
            Some(directive) => {
                out.push_str(&field(&time, directive).ok_or_else(|| format!("strftime directive %{directive}"))?);
            }
            None => return Err("a lone % at the end of a strftime format".to_owned()),
        }
    }
    Ok(out)
}

/// A directive with its usual padding.
fn field(time: &CivilTime, directive: char) -> Option<String> {
    let joined = |directives: [char; 3], separator| -> Option<String> {
        Some(directives.map(|d| field(time, d)).into_iter().collect::<Option<Vec<_>>>()?.join(separator))
    };
    Some(match directive {
        'A' => WEEKDAYS[time.weekday].to_owned(),
        'a' => WEEKDAYS[time.weekday][..3].to_owned(),
        'B' => MONTHS[time.month].to_owned(),
        'b' => MONTHS[time.month][..3].to_owned(),
        'p' => if time.second_of_day < 43_200 { "AM" } else { "PM" }.to_owned(),
        'e' => format!("{:2}", time.day),
        'F' => joined(['Y', 'm', 'd'], "-")?,
        'T' => joined(['H', 'M', 'S'], ":")?,
        _ => {
            let (value, width) = number(time, directive)?;
            format!("{value:0width$}")
        }
    })
}

/// The value of a numeric directive, and the width to which it is usually padded with zeros.
fn number(time: &CivilTime, directive: char) -> Option<(i64, usize)> {
    Some(match directive {
        'Y' => (time.year, 1),
        'y' => (time.year.rem_euclid(100), 2),
        'm' => (time.month as i64 + 1, 2),
        'd' => (time.day, 2),
        'j' => (time.day_of_year, 3),
        'H' => (time.second_of_day / 3_600, 2),
        'I' => ((time.second_of_day / 3_600 + 11) % 12 + 1, 2),
        'M' => (time.second_of_day / 60 % 60, 2),
        'S' => (time.second_of_day % 60, 2),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected strings from Python's `datetime.strftime`.
    #[test]
    fn dates_are_those_of_python() {
        let all = "%A %a %B %b %d %e %F %H %I %j %M %m %p %S %T %Y %y %% %-d/%-m %-H";
        for (unix_s, format, expected) in [
            (0, all, "Thursday Thu January Jan 01  1 1970-01-01 00 12 001 00 01 AM 00 00:00:00 1970 70 % 1/1 0"),
            (
                1_709_210_096,
                all,
                "Thursday Thu February Feb 29 29 2024-02-29 12 12 060 34 02 PM 56 12:34:56 2024 24 % 29/2 12",
            ),
            (
                1_735_689_599,
                all,
                "Tuesday Tue December Dec 31 31 2024-12-31 23 11 366 59 12 PM 59 23:59:59 2024 24 % 31/12 23",
            ),
            (1_677_628_800, "%d %b %Y %j", "01 Mar 2023 060"),
            (951_868_799, "%F %j", "2000-02-29 060"),
            (4_107_542_400, "%F %j", "2100-03-01 060"),
            (-1, "%F %T", "1969-12-31 23:59:59"),
        ] {
            assert_eq!(strftime(unix_s, format).as_deref(), Ok(expected), "{unix_s} {format}");
        }
        for format in ["%Q", "%-A", "%", "%-"] {
            assert!(strftime(0, format).is_err(), "{format}");
        }
        for unix_s in [i64::MIN, i64::MAX] {
            assert!(strftime(unix_s, all).is_ok());
        }
    }
}
