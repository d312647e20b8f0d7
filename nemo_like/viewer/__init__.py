"""The page on which a person reads rollouts: `ng_viewer +jsonl_fpath=results/rollouts.jsonl`.

formats      a row of any known kind → a View
catalog      the rows of a file: found, sorted, filtered, searched, followed as it grows
transcript   a View → HTML in which nothing of the rollout is ever run or fetched
charts       numbers → SVG, each bar a link
pages        a route → the HTML of one page
app          the page behind Gradio
"""
