"""Functions written for the tests, some per language: loops, branches, strings, long and short."""

from __future__ import annotations

SAMPLES: dict[str, list[str]] = {
    "python": [
        '''def mean_of(values, start=0.0):
    """Return the mean."""
    total, count = start, 0
    for value in values:
        total += value  # one more
        count += 1
    return total / count if count else None
''',
        """def grade(points, bounds=(50, 80), names=("low", "middle", "high")):
    if points < bounds[0]:
        name = names[0]
    elif points < bounds[1]:
        name = names[1]
    else:
        name = names[2]
    message = f"{points} points: {name}, naïve façade"
    return message, [each for each in names if each != name]
""",
        "def nothing():\n    pass\n",
        "def constants():\n"
        + "".join(f"    name_{i} = {i} + name_{i - 1}\n" for i in range(1, 90)),
        "def long_text():\n    text = '" + "words and words " * 60 + "'\n    return text\n",
        "def tail(a):\n"
        + "".join(f"    call_{i}(1, 2, 3)\n" for i in range(40))
        + "    return a\n",
    ],
    "java": [
        """public static int largest(int[] values, int fallback) {
    int best = fallback;
    // the first wins
    for (int i = 0; i < values.length; i++) {
        if (values[i] > best) { best = values[i]; } else { best = best; }
    }
    for (int value : values) { best += value - value; }
    return best;
}""",
        """String joined(List<String> parts) {
    StringBuilder text = new StringBuilder("parts: ");
    while (!parts.isEmpty()) { text.append(parts.remove(0)).append(", "); }
    return text.toString();
}""",
    ],
    "javascript": [
        """function countWords(text, seen = {}) {
    for (var i = 0; i < text.length; i++) {
        let word = text[i];
        seen[word] += 1; /* may be NaN */
    }
    if (seen.empty) { return `none of ${text}`; } else { return `some`; }
}""",
        """const twice = (value) => {
    let result = value * 2;
    while (result > 9) { result -= 9; }
    return result;
}""",
    ],
    "php": [
        """public function total($prices, $tax = 0.1) {
    $sum = 0;
    foreach ($prices as $price) { $sum += $price; }
    if ($sum > 100) { $tax = 0; } else { $tax++; }
    for ($i = 0; $i < 3; $i++) { $sum = $sum + $i; }
    return "total: $sum" . $tax;
}""",
        "function keys($map) { foreach ($map as $key => $value) { $last = $key; } return $last; }",
    ],
    "ruby": [
        """def classify(number, names: nil)
  names ||= %w[small large]
  if number < 10
    kind = names[0]
  elsif number < 100 # middling
    kind = names[1]
  else
    kind = "#{number} is huge"
  end
  number -= 1 while number > 5
  kind
end""",
        """def pairs(list)
  for a, b in list
    first, second = b, a
  end
  until first
    first = second
  end
end""",
    ],
    "go": [
        """func Sum(values []int, limit int) (total int, err error) {
	var count int = 0
	for i := 0; i < len(values); i++ {
		total = total + values[i]
		count++
	}
	if total > limit { // too many
		err = errors.New("too large")
	} else {
		total = limit
	}
	for _, value := range values { total += value }
	return total, err
}""",
        'func Name(a string) string { b := `raw // text`; return a + "é" + b }',
    ],
}
