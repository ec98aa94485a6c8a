"""The sample's vocabulary: words short and few enough for a tiny tokenizer to have each as one token."""

GENRES = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi")
ADJECTIVES = (
    "Amber", "Ancient", "Bitter", "Black", "Blue", "Bright", "Broken", "Burning", "Cold", "Crimson", "Dark",
    "Distant", "Eternal", "Fallen", "Final", "Frozen", "Gentle", "Golden", "Green", "Hidden", "Hollow", "Last",
    "Little", "Lonely", "Long", "Lost", "Lucky", "Painted", "Quiet", "Red", "Sacred", "Secret", "Silent", "Silver",
    "Sleeping", "Stolen", "Sweet", "White", "Wild", "Winter",
)  # fmt: skip
NOUNS = (
    "Angel", "Bridge", "Castle", "Circle", "City", "Crown", "Dance", "Dream", "Empire", "Engine", "Forest", "Game",
    "Garden", "Ghost", "Harbor", "Heart", "Hill", "House", "Island", "Journey", "Key", "King", "Lake", "Letter",
    "Machine", "Mirror", "Moon", "Mountain", "Night", "Ocean", "Orchard", "Planet", "Promise", "Queen", "River",
    "Road", "Rose", "Season", "Shadow", "Ship", "Signal", "Sky", "Song", "Star", "Station", "Stone", "Storm",
    "Stranger", "Street", "Summer", "Sword", "Train", "Valley", "Voyage", "Wedding", "Window", "Witness", "Wolf",
    "Woman", "World",
)  # fmt: skip
# The same number for each genre, in the order of GENRES.
GENRE_TAGS = (
    "car chase", "explosions", "fight scenes",
    "funny", "hilarious", "witty",
    "moving", "family", "true story",
    "scary", "haunted house", "blood",
    "love story", "wedding", "tearjerker",
    "space", "robots", "time travel",
)  # fmt: skip
OTHER_TAGS = ("classic", "great soundtrack", "long", "twist ending")
OCCUPATIONS = ("artist", "doctor", "educator", "engineer", "librarian", "retired", "student", "writer")
AGES = (18, 25, 35, 45, 50, 56)
