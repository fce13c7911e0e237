"""What a notebook shows of a bundle and of an evaluation. Names and labels may come from strangers: all is escaped."""

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined

Rows = Sequence[tuple[str, str]]

_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_FACTS = _TEMPLATES.from_string("""\
<table>
<caption style="text-align:left"><b>{{ title }}</b></caption>
{% for name, value in rows %}
<tr><th style="text-align:left">{{ name }}</th><td style="text-align:left">{{ value }}</td></tr>
{% endfor %}
</table>
""")
_SCORES = _TEMPLATES.from_string("""\
<table>
<tr><th></th><th></th><th>clips</th><th>accuracy</th><th>log loss</th></tr>
{% for part, name, score in rows %}
<tr><td>{{ part }}</td><td style="text-align:left">{{ name }}</td><td>{{ "{:,}".format(score.clips) }}</td>
<td>{{ "{:.1%}".format(score.accuracy) }}</td><td>{{ "{:.3f}".format(score.log_loss) }}</td></tr>
{% endfor %}
</table>
""")
_CONFUSION = _TEMPLATES.from_string("""\
<table>
<caption style="text-align:left">Rows: true class. Columns: predicted class. Shares of the true class.</caption>
<tr><th></th>{% for label in labels %}<th>{{ label }}</th>{% endfor %}</tr>
{% for label, shares in rows %}
<tr><th style="text-align:left">{{ label }}</th>
{% for share in shares %}
<td style="background:rgba(31,119,180,{{ "{:.2f}".format(share) }});color:{{ "white" if share > 0.5 else "inherit" }}">\
{{ "{:.0%}".format(share) }}</td>
{% endfor %}
</tr>
{% endfor %}
</table>
""")


def facts_table(title: str, rows: Rows) -> str:
    """Names and values in two columns."""
    return _FACTS.render(title=title, rows=rows)


def scores_table(rows: Sequence[tuple[str, str, object]]) -> str:
    """Parts of an evaluation: the kind of part, its name, and its Score."""
    return _SCORES.render(rows=rows)


def confusion_table(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix (true class, predicted class), each row as shares of its sum."""
    rows = [(label, [count / max(sum(row), 1) for count in row]) for label, row in zip(labels, counts, strict=True)]
    return _CONFUSION.render(labels=labels, rows=rows)
