"""What the elements of HTML, and the words that sites put in their class names, say about the text inside."""

from __future__ import annotations

import itertools
import re


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


# never text of the page, whatever they hold
DROPPED = words(
    """
    script style noscript template head iframe frame object embed applet svg math canvas audio video map button
    input select textarea datalist option noframes figcaption link meta img source track area base param
    """
)
BLOCKS = words(
    """
    html body main article section div p pre blockquote ul ol li dl dt dd table thead tbody tfoot tr td th caption
    h1 h2 h3 h4 h5 h6 figure figcaption hr header aside address details summary fieldset form center hgroup
    nav footer dialog menu
    """
)
# the site around the text; a page that is all inside one has left a tag open
ASIDE = words("nav footer dialog menu")
# blocks that stand side by side in any text, so that many of a kind say nothing
LINES = words("p pre blockquote h1 h2 h3 h4 h5 h6 tr td th tbody")
HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
# wrappers that content may be looked for inside; a list or a table is content itself
WRAPPERS = words("html body main article section div td tr tbody table center form header details fieldset")
# what content is beside paragraphs
STRUCTURE = words("pre table blockquote ol dl ul")
# and where it belongs to what it stands in
ENCLOSED = words("header aside form table ul")
# words of class, id and role whose element is part of the site, not of what the page says
AROUND = words(
    """
    ad ads advert adverts advertisement advertising adsense adslot dfp banner sponsor sponsored promo promos
    promotion promoted outbrain taboola zergnet revcontent teads share sharing sharebar shares social socials
    addthis sharethis addtoany sharedaddy socialmedia respond trending popular mostread
    readmore morefrom upnext newsletter newsletters subscribe subscription signup optin paywall nav navbar
    navigation submenu breadcrumb breadcrumbs pagination pager paginate sidebar rail footer masthead topbar
    toolbar cookie cookies consent gdpr modal popup overlay lightbox tooltip dropdown offcanvas login signin
    screenreader sronly skiplink byline authorbio caption captions credit credits photocredit slideshow carousel
    teaser teasers
    """
)
# words of what readers write below a text, in a few languages, and of lists of other pages
OTHERS = words(
    """
    comment comments commentlist disqus livefyre viafoura commentaire commentaires kommentar kommentare comentario
    comentarios commenti reacties komentarze yorumlar related recommended recommendations recommendation recirc
    recirculation
    """
)
# words that say it only as a whole class name or id: others use them as part of longer ones (`tag-politics`)
AROUND_WHOLE = words(
    """
    hidden invisible printonly noprint tag tags taglist tagcloud taglinks tagslinks tagscontainer widget widgets
    widgetarea menu menus mainmenu search searchform searchbox searchbar register reply replies bio rating ratings
    poll gallery copyright skip aside complementary contentinfo navigational jetpack jpshare mailchimp rightcolumn
    leftcolumn rightcol leftcol lastupdated dateline timestamp pubdate
    """
)
# two words side by side that say it where one alone does not
AROUND_PAIRS = words(
    """
    most-read most-popular read-next read-more up-next more-from more-stories more-news see-also also-like sr-only
    screen-reader visually-hidden side-bar sign-up log-in author-bio author-info author-box about-author post-meta
    entry-meta article-meta meta-info post-tags post-footer entry-footer article-footer entry-utility post-date
    publish-date top-stories latest-news next-article next-post previous-post post-navigation right-rail left-rail
    call-to read-also also-read story-links inline-related widget-area tag-links tags-links tag-list search-form
    back-to
    """
)
# beside such a word the element only has, or lacks, the other thing
_LAYOUT_BEFORE = words("has with without no not hide is")
_LAYOUT_AFTER = words("open closed enabled disabled active off embed embedded wrap wrapped")
# the site says that this is the text
STATED = words("articlebody articlebodytext content:encoded")
# inside a line of text a class name rarely means the site
INLINE = words(
    """
    a abbr b bdi bdo cite code data del dfn em font i ins kbd mark q ruby s samp small strong sub sup time tt u
    var wbr br
    """
)
_WORDS = re.compile(r"(?<![0-9a-z])[a-z]+|(?<![0-9])(?:[A-Z][a-z]*|[A-Z]+(?![a-z]))")
_cache: dict[str, int] = {}


def around(names: str) -> int:
    """Whether class names or an id say that an element belongs to the site around the text.

    Returns:
        0 if none does, 1 if one does, 2 if one says that others write there or that it is about other pages.
    """
    names = names[:2000]
    found = _cache.get(names)
    if found is None:
        found = max((_says_around(name) for name in names.split()[:60]), default=0)
        if len(_cache) > 20_000:
            _cache.clear()
        _cache[names] = found
    return found


def _says_around(name: str) -> int:
    """What one class name or id says."""
    parts = [word.lower() for word in _WORDS.findall(name)]
    found = int("".join(parts) in AROUND_WHOLE or any(f"{a}-{b}" in AROUND_PAIRS for a, b in itertools.pairwise(parts)))
    for at, word in enumerate(parts):
        if word in AROUND or word in OTHERS:
            before, after = parts[at - 1] if at else "", parts[at + 1] if at + 1 < len(parts) else ""
            if before not in _LAYOUT_BEFORE and after not in _LAYOUT_AFTER and "embed" not in parts:
                found = max(found, 1 + (word in OTHERS))
    return found
