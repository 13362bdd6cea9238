"""What the elements of HTML, and the words that sites put in their class names, say about the text inside."""

from __future__ import annotations

import re

# never text of the page, whatever they hold
DROPPED = frozenset(
    "script style noscript template head iframe frame object embed applet svg math canvas audio video map button input "
    "select textarea datalist option nav footer dialog menu noframes link meta img source track area base param".split()
)
BLOCKS = frozenset(
    "html body main article section div p pre blockquote ul ol li dl dt dd table thead tbody tfoot tr td th caption "
    "h1 h2 h3 h4 h5 h6 figure figcaption hr header aside address details summary fieldset form center hgroup".split()
)
HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
# wrappers that content may be looked for inside; a list or a table is content itself
WRAPPERS = frozenset("html body main article section div td tr tbody table center form header details fieldset".split())
# words of class, id and role whose element is part of the site, not of what the page says
AROUND = frozenset(
    """ad ads advert advertisement advertising adsense adslot dfp banner sponsor sponsored promo promotion promoted
    outbrain taboola zergnet revcontent teads share sharing sharebar shares social socials addthis sharethis addtoany
    sharedaddy socialmedia comment comments commentlist disqus respond reply replies livefyre viafoura coral related
    recommended recommendations recommendation recirc recirculation trending popular mostread readmore morefrom
    upnext newsletter subscribe subscription signup optin paywall nav navbar navigation navigational menu menus
    submenu breadcrumb breadcrumbs pagination pager paginate sidebar rail aside widget widgets footer masthead topbar
    toolbar cookie cookies consent gdpr modal popup overlay lightbox tooltip dropdown offcanvas login signin register
    search searchform tags tag taglist hidden invisible printonly noprint screenreader sronly skip skiplink
    complementary contentinfo byline authorbio bio rating ratings jetpack mailchimp poll hatom
    """.split()
)
# two words side by side that say it where one alone does not
AROUND_PAIRS = frozenset(
    """most-read most-popular read-next read-more up-next more-from more-stories more-news see-also also-like
    sr-only screen-reader visually-hidden side-bar sign-up log-in author-bio author-info author-box about-author
    post-meta entry-meta article-meta meta-info post-tags post-footer entry-footer article-footer entry-utility
    post-date publish-date top-stories latest-news next-article next-post previous-post post-navigation right-rail
    left-rail call-to read-also also-read story-links inline-related pull-quote""".split()
)
INSIDE = frozenset("articlebody entrycontent postcontent storybody articlecontent maincontent postbody".split())
_WORDS = re.compile(r"[a-z]+|[A-Z][a-z]*|[A-Z]+(?![a-z])")
_cache: dict[str, bool] = {}


def is_around(names: str) -> bool:
    """Whether class names or an id say that an element belongs to the site around the text."""
    found = _cache.get(names)
    if found is None:
        words = [word.lower() for word in _WORDS.findall(names)]
        pairs = {f"{a}-{b}" for a, b in zip(words, words[1:], strict=False)}
        whole = set(names.lower().replace("-", "").replace("_", "").split())
        found = bool(AROUND.intersection(words) or AROUND.intersection(whole) or AROUND_PAIRS.intersection(pairs))
        if len(_cache) > 20_000 or len(names) > 500:
            _cache.clear()
        _cache[names] = found
    return found
