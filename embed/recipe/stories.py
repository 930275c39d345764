"""A grammar that writes short stories for children, seeded and deterministic.

`story(rng)` builds a small world (a hero, a friend, an elder, a thing, a place), picks one of the
plots below and expands it.  `python embed/stories.py --count 3 --seed 7` prints three stories.

The notation of a plot:
  [a|b|c]         one of the alternatives, nested as deep as you like
  {name}          a word of the world: {hero}, {he}, {thing} ... or one that the plot chose
  <rule>          a phrase of RULES, expanded anew each time
  @x = a|b|c      at the top of a plot: choose x for the whole story
  @x,y = a|b|c    choose x and y, never the same
  @x/y = a/b|c/d  choose a pair that belongs together
A blank line starts a paragraph.  "a" becomes "an" and sentences get their capitals at the end.
"""

import argparse
import functools
import random
import re

# ------------------------------------------------------------------------------------ words


def words(text):
    return text.split()


GIRLS = words("""Lily Mia Anna Sara Lucy Emma Zoe Ella Ruby Nora Molly Daisy Rosie Ivy Amy Kate
Jane Sue Mary Lisa Nina Tina Bella Clara Eva Fay Grace Hana Iris Jill Kim Leah Maya Nell
Olive Penny Rita Sofia Tess Uma Vera Wendy Yara Zara Ada Beth Cora Dora Elsie Freya Gina
Heidi Isla Josie Kira Lola Mina Nadia Orla Poppy Rosa Sally Tilly Una Violet Willa Alma
Birdie Chloe Della Edie Flora Greta Hazel Ines Juno Luna Mabel Nelly Opal Pearl Ramona
Stella Thea Vivi Ana Jenny Betty Lena Rachel""")
BOYS = words("""Tim Tom Ben Max Sam Jack Leo Finn Jake Bob Joe Billy Dan Eli Fred Gus Hugo Ian
Jim Kai Luke Milo Ned Oscar Paul Ray Sid Theo Victor Will Zack Adam Bruno Carl David Emil
Felix George Henry Ivan John Karl Liam Mark Noah Otto Peter Robin Simon Tobias Walter
Anton Bill Charlie Dylan Ethan Frank Gabe Harry Isaac Jonah Kevin Louie Mike Nico Owen
Pablo Quinn Rory Stan Toby Umar Vince Wally Amir Bo Cody Danny Ernie Timmy Tommy Johnny
Ravi Omar Mateo Andy Teddy""")
PET_NAMES = words("""Pip Dot Bibi Coco Momo Fluffy Spot Rex Biscuit Pepper Button Patch Fuzzy
Bubbles Pickle Ginger Peanut Rusty Shadow Sunny Snowy Smoky Tiny Waffle Mop Buddy Cookie
Honey Bear Dusty Lucky Jojo Nibble Pebble Puff Scout Sparky Tuffy Whisker Ziggy Mango
Olive Rolo Bingo Maple Clover Acorn Fern""")
ANIMALS = words("""rabbit fox bear mouse squirrel frog duck hedgehog turtle owl cat dog kitten
puppy pig lamb goat pony deer beaver badger otter raccoon mole penguin panda monkey lion
tiger elephant giraffe zebra hippo koala kangaroo parrot hen goose robin sparrow crow swan
snail ladybug bee butterfly ant cricket spider crab seal whale dolphin bunny chick cub
camel donkey cow sheep wolf hamster lizard""")
FANTASY = words(
    "dragon robot fairy elf giant wizard unicorn monster ghost troll prince princess knight"
)
ANIMAL_TRAITS = words("""little small tiny young fluffy funny brave shy curious friendly clever
quiet busy happy lonely sleepy gentle playful cheerful kind brown gray white spotted""")
CHILD_TRAITS = words("""little small young brave shy curious friendly clever quiet busy happy
cheerful kind playful gentle smart careful lively""")
COLOURS = words("red blue green yellow pink purple orange white brown golden silver black")
LOOKS = words("""shiny wooden old new pretty special tiny big soft round striped beautiful magic
lovely bright little""")
THINGS = words("""ball kite doll drum hat scarf book boat lantern key bell ring cup box basket
blanket button hoop bow ribbon flute horn whistle lamp coin pen pencil crayon paintbrush
balloon umbrella bag backpack bucket shovel toy_car truck train airplane rocket puzzle
marble shell stone pebble feather mask crown cape coat sweater mitten glove shoe boot sock
necklace bracelet pillow teddy_bear puppet top robot yo-yo clock watch mirror spoon bowl
plate jar bottle pot teapot mug compass map telescope rope brush comb cap jacket flag card
letter picture camera guitar trumpet""")
PLACES = """in the park|in the garden|in the forest|at the beach|by the river|by the lake
|in the meadow|on the hill|in the woods|at the farm|in the field|by the pond
|near the old mill|on the playground|by the sea|near the big oak tree|in the orchard
|at the edge of the village|in the yard|by the stream|in the valley|behind the barn
|near the old bridge|in the town square|on the sandy shore|under the tall pines
|beside the stone wall|near the castle|in the green hills|by the waterfall"""
TOWNS = """in a small village|in a big city|in a little town|in a house by the sea
|in a cozy house|on a farm|in a small house near the forest|at the edge of a deep forest
|in a quiet valley|on a green hill|near a wide river|in a tall house with a red roof
|in a sunny town by the sea|on a small island|in a house with a blue door
|at the foot of a mountain|at the end of a long road|in a busy street"""
WILD_TOWNS = """in a deep forest|in a cozy den|in an old oak tree|near a quiet pond
|in a green meadow|by a wide river|at the foot of a mountain|in a warm cave
|on a small farm|in a hole under a tree|on a small island|in a garden
|at the edge of the woods|high on a hill|in a sunny valley|behind an old barn
|in a little house made of wood|far away in the hills"""
ELDERS = """mom:she:Mom|dad:he:Dad|mother:she:Mama|father:he:Papa|grandma:she:Grandma
|grandpa:he:Grandpa|aunt:she:Auntie|uncle:he:Uncle|grandmother:she:Grandma
|grandfather:he:Grandpa|big sister:she:Sister|big brother:he:Brother|mommy:she:Mommy
|daddy:he:Daddy"""
FOODS = """apples|cookies|berries|cherries|pancakes|sandwiches|muffins|carrots|nuts|plums
|strawberries|grapes|pears|buns|peaches|bananas|cupcakes|raisins"""
LIKES = """play|sing|run|draw|dance|read|explore|play outside|tell stories|climb trees
|watch the clouds|look at the stars|swim|make things|jump|bake|paint pictures|pick flowers
|play with friends|splash in puddles|count the stars|listen to stories|collect stones
|help others|ask questions|roll down the hill|watch the birds|build towers|play games
|take long walks"""

HE = {"he": "he", "him": "him", "his": "his", "himself": "himself", "boy": "boy"}
SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself", "boy": "girl"}

RULES = {
    "when": """one day|one morning|one sunny day|one afternoon|one sunny morning|one day
      |one bright morning|one fine day|one warm afternoon|one summer day|one spring morning
      |one windy day|one quiet afternoon|early one morning|one Sunday|one Saturday morning
      |on a sunny day|on a warm spring day|after breakfast one day|one autumn day
      |one cloudy day|one day after lunch""",
    "happy": """happy|glad|very happy|so happy|full of joy|very glad|proud and happy
      |happy and warm inside|delighted|so glad|pleased""",
    "sad": "sad|very sad|upset|so sad|unhappy|sad and worried|a little sad",
    "scared": "scared|afraid|very scared|frightened|a little scared|nervous|worried",
    "smiled": """smiled|gave a big smile|laughed|grinned|clapped|jumped for joy
      |smiled from ear to ear|laughed with joy|felt warm inside|could not stop smiling""",
    "hard": "very hard|as hard as {he} could|with all {his} might|again and again|for a long time",
    "wow": "Wow|Oh|Look|Oh my|Hooray|Yay|Oh wow|Goodness",
    "ohno": "Oh no|Oh dear|Uh-oh|Oh no, oh no",
    "yes": "Yes|Of course|Sure|Yes, please|Okay|Yes, let's",
    "please": "Thank you|Thank you so much|Thank you very much|Oh, thank you",
    "weather": """The sun was shining.|The sky was blue.|It was warm and bright.
      |A soft wind blew.|Birds were singing in the trees.|The air smelled like flowers.
      |The sun felt warm on {his} face.|Little white clouds floated in the sky.
      |The grass was green and soft.|It was a beautiful day.|The leaves danced in the wind.
      |Everything was quiet.|Bees buzzed around the flowers.""",
    "time": """after a while|soon|a little later|then|at last|before long|a moment later
      |a few minutes later|just then|suddenly""",
    "finally": "at last|finally|in the end|after a long time|then, at last,",
    "cry": """{hero} began to cry|tears ran down {hero}'s face|{hero} sat down and cried
      |{hero} felt like crying|{hero} wanted to cry|a tear rolled down {hero}'s cheek""",
    "home": """Then they went home together.|They walked home hand in hand.
      |The sun went down, and it was time to go home.|{hero} went home with a big smile.
      |They talked about it all the way home.
      |That night, {hero} told {his} {kin} all about it.""",
    "sleep": """That night, {hero} slept very well.
      |{hero} fell asleep with a smile on {his} face.|That night, {hero} had sweet dreams.
      |{hero} went to bed tired and <happy>.|When the moon came up, {hero} was fast asleep.
      |{hero} closed {his} eyes and dreamed of [tomorrow|the next adventure|{dream}].""",
    "friends": """From that day on, {hero} and {friend} were best friends.
      |{hero} and {friend} [played|laughed|sang] together until the sun went down.
      |After that, {hero} and {friend} [played together|saw each other] every day.
      |And {hero} and {friend} stayed friends [forever|for a long, long time|always].
      |{hero} and {friend} became the best of friends.
      |{hero} was <happy> to have a friend like {friend}.""",
    "fidea": """{friend} had an idea|{friend} thought for a moment|{friend} knew what to do
      |{friend} had a good idea""",
    "hug": """gave {him} a big hug|hugged {him}|hugged {him} tight|put an arm around {him}
      |patted {him} on the head|held {his} hand""",
    "thanks": """"<please>, {friend}!" said {hero}.|{hero} thanked {friend} and <smiled>.
      |"<please>!" {hero} said. "You are a good friend."
      |{hero} hugged {friend} and said, "<please>!\"""",
    "welcome": """"You are welcome," said {friend}.
      |"That is what friends are for," said {friend}.|"I am glad I could help," said {friend}.
      |"Any time," said {friend} with a smile.|{friend} just smiled.""",
    "learned": """{hero} learned that|{hero} understood that|now {hero} knew that
      |that day, {hero} learned that|from then on, {hero} knew that|{hero} never forgot that""",
    "look_thing": """It was the [nicest|prettiest|best] {noun} in the whole [town|world
      |village].|It was a gift from {his} {kin}.|{he} took it everywhere.
      |{he} kept it [in a little box|under {his} pillow|beside {his} bed|on a shelf].
      |{his} {kin} had made it for {him}.|{he} had found it [in the attic|at the market
      |on the beach|under a tree] long ago.|Nobody else had a {noun} like that.
      |{he} had got it for {his} birthday.""",
}

# ------------------------------------------------------------------------------------ openings

INTROS = """once upon a time, there was {a_hero}.
once upon a time, there was {a_hero} who [lived {town}|loved to {like}|liked to {like}].
once upon a time, {town}, there lived {a_hero}.
once upon a time, {a_hero} lived {town}.
once there was {a_hero} who lived {town}.
there once was {a_hero} who loved to {like}.
{town}, there lived {a_hero}.
{town} lived {a_hero}.
long ago, {town}, there was {a_hero}.
a long time ago, there was {a_hero} who loved to {like}.
far away, {town}, there lived {a_hero}.
there was {a_hero}. {he} lived {town}.
{a_hero} lived {town}.
this is a story about {a_hero}.
{hero} was {a_kind}. {he} lived {town}.
{hero} was {a_kind} who loved to {like}.
{hero} lived {town} with {his} {kin}.
{hero} lived {town}.
{hero} loved to {like}.
{hero} liked to {like} and to {like2}.
every day, {hero} liked to {like}.
every morning, {hero} went out to {like}.
{hero} and {friend} were best friends. They loved to {like} together.
{hero} and {friend} lived {town}.
{hero} had {a_thing}. <look_thing>
{hero} had {a_thing}. {he} loved {the_thing} very much.
{hero} had a friend named {friend}. They liked to {like} together.
once there were two friends named {hero} and {friend}. They loved to {like}.
do you know {hero}? {hero} was {a_kind} who lived {town}.
nobody in the whole [world|village|forest|town] loved to {like} as much as {hero}.
if you went for a walk {at_place}, you might have met {a_hero}."""

DETAILS = """{he} loved to {like}.
{he} liked to {like} and {like2}.
every day, {he} liked to {like} {at_place}.
{he} was always [kind|cheerful|busy|full of questions|ready to help].
{his} best friend was [called {friend}|{friend}]. They did everything together.
{he} lived with {his} {kin}.
{he} had {a_thing} that {he} loved very much. <look_thing>
{his} favorite [thing|toy] was {a_thing}. <look_thing>
{he} always wore a {colour} [hat|scarf|coat|ribbon|cap].
{he} liked {food} more than anything.
{he} was small, but {he} had a big heart."""

STARTS = """<when>, |<when>, |one day, |one day, |the sun was shining, and
|it was a [sunny|fine|warm|windy|quiet|bright] [day|morning|afternoon].
|it was [spring|summer|autumn|Sunday|Saturday].|"""

ENDINGS = """|||<sleep>|<home>|It was a [wonderful|very good|happy|special] day.
|And they all lived happily ever after.|The end.|And {hero} was <happy>.
|{hero} could not wait for tomorrow.|What a day it had been!
|From then on, {hero} [often|always] thought of that day and smiled.
|Everyone was <happy>.|{hero}'s heart was full of joy."""

# ------------------------------------------------------------------------------------ plots

PLOTS = {}
PLOTS["lost"] = """
@s1,s2,s3 = under the bed|behind the door|in the basket|under the table|behind the big tree
  |in the tall grass|under the old bench|in the shed|behind the barn|on the stairs|under the bush
  |in the boat|in the toy box
@why = The wind had blown it there.|It had fallen there yesterday.
  |{he} had left it there before supper.|A naughty magpie had dropped it there.
  |A little kitten had been playing with it.
{hero1} [wanted to play with {his} {thing}|looked for {his} {thing}], but it was gone. "<ohno>!
Where is my {noun}?" {he} [asked|cried|said]. {hero} looked {s1}, but it was not there. {he} looked
{s2}, but [it was not there either|there was only dust|the {noun} was not there]. {hero} felt
<sad>.

{friend1} came by and saw that {hero} was sad. "What is wrong?" asked {friend}. "I lost my
{thing}," said {hero}. "[Do not worry|Do not cry|Come on]," said {friend}. "[I will help you|We
will look for it together|Two can look better than one]." They looked and looked. <finally>
{friend} looked {s3}. "<wow>! [Here it is|I found it|I see something {adj}]!" said {friend}. It was
the {thing}! {why}

{hero} [took the {noun} in {his} arms|held the {noun} tight|jumped up and down] and felt <happy>.
<thanks> <welcome> After that, {hero} always put {his} {noun} [back in its place|in a safe place|on
the shelf] at night.
"""
PLOTS["stuck"] = """
@high = tall tree|old apple tree|big oak tree|roof of the barn|high wall|top of the fence
@try1/res = threw a stick/the stick only flew past it|jumped up/it was much too high
  |shook it/the {noun} did not move|called for the wind/the wind only laughed
  |climbed up a little/it was too high
{hero1} was playing with {his} {thing} {at_place}. <weather> <time> a strong wind came, and
[whoosh|up it went|in a moment]! The {noun} was stuck on the {high}. "<ohno>! My {noun}!" cried
{hero}. {he} {try1}, but {res}. {hero} felt <sad>.

{friend1} was [passing by|walking along|sitting nearby]. "Can I help you?" {fhe} asked. "My {noun}
is up there," said {hero}. "I cannot reach it." <fidea>. "[Stand on my back|Let us stand on this
box|Let us get a long stick]," said {friend}. "[Then you will be tall|Together we are tall]!"
{hero} [stretched|reached up] as far as {he} could. [One more try, and|Slowly, slowly,] the {noun}
came down.

"We did it!" they shouted. {hero} let {friend} play with the {thing} too, and they [took turns|had
fun] all day. <learned> two friends can do what one cannot.
"""
PLOTS["dark"] = """
@sound/what = a scratching sound/a tiny mouse looking for crumbs
  |a soft tapping/a branch touching the window|a long creak/the old door in the wind
  |a strange hoot/an owl sitting on the roof|a big thump/the cat jumping off the table
  |a hiss/the kettle on the stove|a rattle/the window shaking in the wind
  |a humming sound/a big moth near the lamp
@start = night
{hero1} was in bed. It was dark, and {he} heard {sound}. "What was that?" {he} whispered. {hero}
was <scared> and pulled the blanket over {his} head. The sound came again. {hero} held {his}
{thing} tight.

"Being brave means you try even when you are scared," {he} said to the {noun}. So {hero} [lit a
little lamp|took a candle|turned on the light] and [walked on tiptoe|crept slowly] to see. {his}
heart went [thump, thump, thump|boom, boom, boom]. {he} looked around. And what did {he} see? It
was only {what}! {hero} laughed out loud.

{elder} came in. "[Why are you awake|What is going on], {voc}?" {ehe} asked. {hero} told {ehim}
everything. "You were very brave," said {elder} and <hug>. {hero} went back to bed with {his}
{thing}, and [soon {he} was asleep|this time the dark was not scary at all|{he} was not afraid of
the dark any more].
"""
PLOTS["swim"] = """
@did = float|swim|kick {his} legs|hold {his} breath
{hero1} went to the [lake|pond|river] with {friend1}. {friend} jumped in with a big splash. "Come
in, {voc}! The water is [warm|nice|lovely]!" called {friend}. But {hero} stood on the shore. {he}
was <scared>. "I cannot swim," {he} said softly. "The water is too deep."

"[That is okay|Do not worry]," said {friend}. "I was scared once too. [We can start slowly|We will
go step by step|I will stay close to you]." First {hero} put one foot in the water. It was cold!
Then {he} went in up to {his} knees. {friend} held {his} hand and showed {him} how to {did}. {hero}
tried and tried. <time> {he} let go, and {he} did not sink. "Look, I am swimming!" {hero} shouted.

"I knew you could do it!" said {friend}. They splashed and played until [lunch|the sun went
down|they were tired]. <learned> [a scary thing gets smaller when a friend is near|you only have to
start with one small step].
"""
PLOTS["slide"] = """
@tall = slide|ladder|rope bridge|climbing wall|tree house|swing|diving rock|hill
{hero1} stood in front of the [big|tall|high] {tall} {at_place}. Everyone else had tried it, but
{hero} was <scared>. "It is so high," {he} said. {his} legs began to shake. [Some of the others
laughed.|"Maybe tomorrow," {he} thought.|] {hero} turned around to go away.

"Wait," said {friend1}. "Do you want to do it together?" {hero} looked up at the {tall} and then at
{friend}. "Will you hold my hand?" {he} asked. "<yes>," said {friend}. "We will count to three."
They [went up|climbed up] slowly. {hero} did not look down. At the top {he} could see [the whole
village|the river and the hills|far, far away]. "One, two, three!" they shouted.

{he} did it! It was [so much fun|the best feeling in the world]! "Again!" {hero} cried, and they
did it again and again. That evening, {hero} told {elder}, "I was afraid of the {tall}, but I did
it anyway." {elder} <hug> and said, "That is what it means to be brave."
"""
PLOTS["share_toy"] = """
{hero1} was playing with {his} {thing} {at_place}. {friend1} came and [watched|looked at it] for a
while. "Can I play with your {noun}?" asked {friend}. "No! It is mine!" said {hero} and held the
{noun} tight. {friend} [walked away|sat down under a tree] and looked <sad>.

{hero} played alone. But [it was not fun any more|playing alone was boring|something felt wrong].
{he} looked at {friend} and {his} heart felt heavy. {hero} remembered what {elder} always said: "[A
toy is twice as much fun when two play with it|Sharing is caring|Joy grows when you share it]." So
{hero} went to {friend}. "I am sorry," {he} said. "Do you want to play with my {thing}?"

{friend} [smiled|looked up] and said, "<yes>! Let us take turns." First {friend} played with the
{noun}, and then {hero} did. They [laughed|ran around|made up a new game] and had so much fun.
{hero} was <happy>. <friends>
"""
PLOTS["share_food"] = """
@n = five|six|seven|eight|ten
{hero1} had a basket with {n} {food}. They smelled so good! "I will eat them all by myself," said
{hero}. {he} sat down {at_place} and was about to take the first bite.

<time> {friend1} came along. {fhe} looked tired and hungry. "I have not eaten all day," said
{friend}. {hero} looked at {his} {food}. {he} [thought about it|did not want to share at
first|thought for a moment]. But then {he} saw how [thin|sad|tired] {friend} looked. "Sit down next
to me," said {hero}. "We can share." {friend}'s eyes [lit up|grew big]. "<please>!" {fhe} said.
They [ate the {food} together|sat side by side, ate the {food}] and told each other funny stories.

The next day, {hero} was hungry and {his} basket was empty. Then {friend} came with a big bag of
{food2}. "Yesterday you shared with me," said {friend}. "Today I will share with you!" {hero}
<smiled>. <learned> kindness always comes back.
"""
PLOTS["old_help"] = """
@who/short/t = an old woman/the old woman/she|an old man/the old man/he
  |an old turtle/the turtle/he|an old goat/the goat/she|a tired farmer/the farmer/he
  |a baker/the baker/she
@load = a heavy bag|a big basket|a pile of wood|two big buckets|a sack of potatoes
  |a tall stack of books
@gift = a sweet red apple|a little golden bell|a warm bun|a shiny button|a jar of honey
  |a tiny wooden bird|a small silver key
{hero1} was walking {at_place} when {he} saw {who} with {load}. {short} walked very slowly and had
to stop again and again. Everyone just [walked past|hurried by]. "That looks heavy," said {hero}.
"Can I help you?" "Oh, that would be very kind," said {short}.

{hero} was not very big, but {he} tried <hard>. It was a long way up the hill. {his} arms hurt, but
{he} did not stop. On the way {short} told {him} [a story about the sea|stories from long ago|a
funny riddle]. At last they came to a little house.

"<please>, my dear," said {short}. "You have a good heart." Then {t} gave {hero} {gift}. {hero}
<smiled>. But [the best gift was the warm feeling inside|what made {him} most happy was that {he}
had helped]. From that day on, {hero} [came by|visited] every week to help.
"""
PLOTS["broke"] = """
@vase,v2 = blue vase|flower pot|favorite cup|big window|teapot|old lamp|glass bowl|picture frame
  |clock|mirror
{hero1} was playing with {his} {thing} in the house. {elder} had said, "Please play outside,
{voc}." But {hero} did not listen. {he} ran and jumped and turned around, and then, crash! The
{vase} fell down and broke. "<ohno>!" said {hero}. {his} heart beat fast. {hero} wanted to [hide
the pieces|run away|say that the cat did it].

But {he} knew that was not right. So {hero} went to {elder}. "I have to tell you something," {he}
said in a small voice. "I broke the {vase}. I am very sorry." {elder} looked at the pieces and then
at {hero}. "I am sad about the {vase}," {ehe} said, "but I am [glad|proud] that you told me the
truth."

Together they picked up the pieces and [glued them together|made a new one out of clay|cleaned the
floor]. After that, {hero} took the {thing} and went outside to play. <learned> telling the truth
[is always best|makes your heart light|takes courage, but it feels good].
"""
PLOTS["truth"] = """
@sweet = the last piece of cake|a cookie from the jar|three sweet tarts|the honey|all the jam
  |the chocolate|the biggest bun
{hero1} saw {sweet} on the kitchen table. It looked so good! {elder} had said to wait until supper.
But nobody was there, and {hero} was hungry. {he} took one little bite, and then another, and soon
it was all gone.

At supper, {elder} asked, "Who ate {sweet}?" "It was not me," said {hero}. "Maybe it was a mouse."
{elder} said nothing. {hero} went to bed, but {he} could not sleep. {his} tummy hurt, and {his}
heart hurt too. At last {he} got up and [went to the kitchen|knocked on the door]. "It was not a
mouse," {he} said with tears in {his} eyes. "It was me. I am sorry that I lied."

{elder} <hug>. "Thank you for telling the truth, {voc}," {ehe} said. "That was not easy." The next
day, {hero} helped {elder} to bake a new one. It was even better, and this time they [ate it
together|shared it with everyone].
"""
PLOTS["new_friend"] = """
@game = hide and seek|catch|tag|a jumping game|with a ball|pirates|house|a game with stones
{hero1} met {a_friend} {at_place}. {friend} was new and did not know anyone. {fhe} stood [all
alone|behind a tree|by the fence] and looked at {fhis} feet. {hero} was shy too. {he} did not know
what to say.

Then {hero} took a deep breath and walked over. "Hello, my name is {name}," {he} said. "What is
your name?" "{friend}," said {friend} in a small voice. "I do not have any friends here." "You have
one now," said {hero}. "Do you want to play {game}?" {friend} looked up and smiled for the first
time. "I would love to," {fhe} said.

They played {game} all [afternoon|day long|morning]. {friend} was very [funny|fast|clever], and
{hero} laughed a lot. When it was time to go, {hero} gave {friend} {his} {thing}. "You can have it
until tomorrow," {he} said. "Then you have to come back!" {friend} came back the next day with the
{noun}, and the day after that. <friends>
"""
PLOTS["bird"] = """
@animal/cry/can = bird/cheep, cheep/fly|robin/peep, peep/fly|sparrow/tweet, tweet/fly
  |owl/hoo, hoo/fly|bunny/squeak, squeak/hop|kitten/meow, meow/run|fawn/bleat, bleat/run
  |duckling/quack, quack/swim|butterfly/flap, flap/fly|squirrel/squeak, squeak/climb
  |fox cub/yip, yip/run|puppy/woof, woof/run
@part = leg|foot|side|back
@home = a box with soft grass|a basket with a warm blanket|a little bed of leaves|a nest of wool
  |an old hat filled with moss
{hero1} [heard a small sound {at_place}. "{cry}!" It was a little {animal}, and it was hurt.|met a
little {animal} {at_place}. "{cry}," it said. It was hurt.|saw a little {animal} {at_place}.
"{cry}," it went. Something was wrong.|found a little {animal} {at_place}. It was hurt. "{cry}," it
cried.] It could not {can}. "You poor thing," said {hero}. "Do not be afraid. I will help you."
{he} picked up the {animal} very gently and carried it home.

{elder} helped {him} to [clean the sore {part}|put a bandage on the sore {part}|wash the sore
{part}]. {hero} made {home}. Every day {he} gave the {animal} food and water and [sang to it|told
it stories|sat next to it]. Slowly, the little {animal} got better. One morning, it [stood
up|opened its eyes wide] and tried to {can}. It worked!

{hero} was <happy>, but also a little sad. "Now it has to go home," said {elder}. {hero} took the
{animal} to the place where {he} had found it and let it go. "Goodbye, little friend," {he} said.
The {animal} looked back once more and was gone. But [every spring|the next morning|sometimes],
when {hero} heard "{cry}" at the window, {he} knew who it was.
"""
PLOTS["baby_lost"] = """
@baby/mother/sound = duckling/mother duck/quack|lamb/mother sheep/baa|kitten/mother cat/meow
  |chick/mother hen/peep|calf/mother cow/moo|baby owl/mother owl/hoo|bear cub/mother bear/grr
  |piglet/mother pig/oink|puppy/mother dog/woof|baby rabbit/mother rabbit/squeak
  |little goat/mother goat/maa|baby seal/mother seal/ork
@p1,p2,p3 = by the pond|behind the barn|near the old bridge|in the meadow|under the willow tree
  |by the stream|next to the big rock|on the hill|behind the hedge|in the reeds
{hero1} [found|met|saw] a {baby} {p1}. It was all alone. "{sound}, {sound}," it cried. "Where is
your mother?" asked {hero}. The {baby} only looked at {him} with big sad eyes. "I will help you
find her," said {hero}.

They went {p2}, but [nobody was there|there was only a frog|it was empty]. {hero} asked {friend1},
"Have you seen the {mother}?" "I heard someone calling {p3}," said {friend}. "Come, I will show
you!" So they all went together. The {baby} was tired, and {hero} carried it in {his} arms.

And there, {p3}, was the {mother}! "{sound}! {sound}!" she called. The {baby} jumped down and ran
to her as fast as it could. The {mother} [was so happy|looked at {hero} as if to say thank
you|rubbed her nose on her baby]. {hero} and {friend} waved goodbye. "It is good to be home with
your mother," said {hero}, and {he} [ran home to hug {his} own|went home to {his} own family].
"""
PLOTS["promise"] = """
@task = water the flowers|feed the chickens|feed the fish|help in the garden
  |bring the soup to a sick neighbor|return the book|paint the fence|sweep the floor
@fun = go to the fair|go swimming|play by the river|fly kites|go to the circus
  |climb the big tree
{hero1} said to {elder}, "I promise to {task} today." "Thank you, {voc}," said {elder}. "I know I
can count on you." But then {friend1} came running. "Come with me!" said {friend}. "We are going to
{fun}!" {hero} wanted to go so much.

{he} took one step, and then {he} stopped. "I cannot come," said {hero}. "I made a promise. First I
have to {task}." {friend} [thought about it|looked sad for a moment|nodded]. Then {fhe} said, "A
promise is a promise. [I will help you|Let me help, and we will be fast]!" So they did it together.
They worked [hard|fast], and they sang while they worked.

When they were done, {elder} came to see. "You kept your promise!" {ehe} said and gave them
[both|each] some {food}. And there was still time to {fun}. They had a wonderful day, and it was
even better because {hero} had kept {his} word.
"""
PLOTS["race"] = """
@prize = golden cup|blue ribbon|big pie|shiny medal|crown of flowers|basket of {food}
@fall/how = fell over a root/{fhis} knee hurt|fell into a hole/{fhe} could not get out
  |slipped in the mud/{fhis} foot hurt|ran into a bush/{fhe} was stuck
{hero1} wanted to win the big race {at_place}. The winner would get a {prize}. {hero} had trained
for many days. {friend1} was in the race too, and {fhe} was very fast. "Ready, steady, go!" called
{elder}, and everyone ran.

{hero} ran as fast as {he} could. {friend} was in front, and {hero} was right behind. Then {friend}
{fall}. "Ouch!" {friend} cried. {how}. {hero} could run past now and win! {he} could see the
{prize} already. But {hero} stopped. "[Are you okay|Are you hurt], {fvoc}?" {he} asked. "Take my
hand." {hero} helped {friend} up, and they went on together, slowly, side by side.

They came in last. But everyone [clapped and cheered|stood up and clapped]. "You did not win the
race," said {elder}, "but you won something better. You are a true friend." And [the winner shared
the {prize} with them|{elder} gave them both a special prize]. {hero} had never been so proud.
"""
PLOTS["slow_race"] = """
@start = none
{hero1} was very slow. {friend1} was very fast and laughed at {him}. "You are so slow!" said
{friend}. "I could run around the [lake|hill|field] three times before you get to the end." "Then
let us have a race," said {hero}. Everybody came to watch.

{friend} ran off like the wind. Soon {fhe} was far ahead. "I have so much time," {friend} thought.
"I can [take a nap|eat some {food}|rest in the shade]." {fhe} sat down under a tree and closed
{fhis} eyes. But {hero} did not stop. Step by step by step, {he} went on. {he} was hot and tired,
but {he} said to {himself}, "I can do it, I can do it."

When {friend} woke up, {fhe} saw {hero} near the finish line! {friend} ran and ran, but it was too
late. {hero} had won! "I am sorry that I laughed at you," said {friend}. "You never gave up."
{hero} smiled. "[Shall we run together next time|Would you like some {food}]?" {he} asked.
<learned> slow and steady wins the race.
"""
PLOTS["birthday"] = """
@gift = {a_thing}
@hide = the barn|the kitchen|the garden|the big room|the old shed|the tree house
{hero1} woke up and smiled. It was {his} birthday! {he} ran to find {friend1}, but {friend} said,
"I am busy today." {he} went to {elder}, but {ehe} only said, "Not now, {voc}." Nobody said happy
birthday. {hero} felt <sad>. "They all forgot," {he} thought. {he} sat {at_place} all alone.

When the sun was low, {friend} came. "Come quickly," {fhe} said. "I need your help in {hide}!"
{hero} got up and followed {fhim}. It was dark inside. Then, all at once, the lights went on.
"Surprise! Happy birthday, {voc}!" everyone shouted. There were balloons and a big cake with
[candles|berries|cherries] on top.

"We did not forget," said {friend}. "We were getting everything ready!" {friend} gave {him} a box.
In it was {gift}. "It is just what I wanted!" said {hero}. They ate cake and danced [until the
stars came out|all evening]. It was the best birthday ever, and {hero} played with the {noun} until
bedtime.
"""
PLOTS["gift_make"] = """
@start = none
@made/of = a necklace/shells and string|a little boat/bark and a leaf|a card/paper and paint
  |a crown/flowers and grass|a bird house/old wood|a scarf/blue wool|a picture/paper and berries
  |a bookmark/a red ribbon|a bell/clay|a basket/dry grass|a puppet/an old sock
  |a wind chime/shells and sticks|a pillow/soft feathers
It was almost {elder}'s birthday, and {hero} wanted to give {ehim} something special. But {hero}
had no money at all. {he} looked in the shop window and felt <sad>. "What can I do?" {he} asked
{friend1}. "[You can make something|Make a gift with your own hands]," said {friend}. "I will help
you."

So they sat down {at_place}. "Let us make {made} out of {of}," said {hero}. It was not easy. The
first one [broke|fell apart|looked funny]. The second one was too [big|small]. But {hero} tried
again and again, and the third one was just right.

On the big day, {hero} gave {elder} the gift. "I made it for you," {he} said shyly. {elder} opened
it and saw {made}. {ehis} eyes were wet with joy. "This is the most beautiful gift of all," {ehe}
said, "because you made it with love." {hero} <smiled>. {elder} kept it forever.
"""
PLOTS["seed"] = """
@plant/look/end = sunflower/a tall stem with a golden flower/It was as tall as the roof!
  |pumpkin/a huge orange pumpkin/It was as big as a chair!
  |apple tree/a tiny tree with green leaves/In autumn it had one red apple.
  |rose/a red rose/It smelled so sweet!
  |bean/a long green vine/It went all the way up to the window!
  |carrot/a bunch of green leaves/Under the ground was the biggest carrot of all!
  |tomato/a green plant with red tomatoes/They tasted like the sun!
  |melon/a round green melon/It was so heavy that two had to carry it!
  |strawberry/a little plant with white flowers/Soon it was full of red strawberries!
{hero1} found a tiny seed {at_place}. "What will it be?" {he} asked. "Plant it and see," said
{elder}. "But you must be patient." {hero} made a hole in the ground, put the seed in it and
covered it with [soft|warm|dark] earth. Every day {he} gave it water.

One day went by, and nothing happened. Three days went by, and still there was nothing. "It does
not work!" said {hero}. {he} was <sad> and wanted to dig it up. "Wait a little more," said {elder}.
"Good things take time." So {hero} waited. It rained, and the sun came out again.

Then one morning there was something green! "<wow>!" shouted {hero}. "It is growing!" It grew and
grew, day after day, and then there was {look}. It was a {plant}! {end} {hero} [showed it to
everyone|danced around it|called {friend} to see it]. "You were patient," said {elder}, "and now
you have your {plant}." {hero} was very proud.
"""
PLOTS["garden_thief"] = """
@crop = carrots|cabbages|peas|strawberries|lettuce|radishes|beans
@thief/small = rabbit/bunnies|hedgehog/babies|mouse/babies|deer/fawns|goat/kids|duck/ducklings
  |squirrel/babies
{hero1} had a little garden full of {crop}. One morning some of them were gone! "Who took my
{crop}?" said {hero}. {he} was [angry|very cross]. That night, {he} hid behind a [bush|barrel|big
pot] and waited. The moon was bright.

<time> there was a soft sound. It was a {thief}! "Stop!" said {hero}. "Why do you eat my {crop}?"
The {thief} began to shake. "I am sorry," said the {thief}. "My little {small} are hungry, and I
could not find any food." {hero} looked at the thin {thief}, and {he} was not angry any more.

"You could have asked me," said {hero} kindly. "Here, take some more {crop} for your {small}.
[Tomorrow we can plant some more together|But tomorrow you have to help me water them]." The next
day the {thief} came back to help, and the {small} came too. They worked together in the sun, and
soon there were enough {crop} for everyone.
"""
PLOTS["boat"] = """
@isl = a small green island|a beach full of shells|a rock full of birds|a cave with blue light
  |a tiny house on an island
{hero1} and {friend1} had a small {colour} boat. "Let us sail across the [lake|bay|river]," said
{friend}. They took some {food} and {hero}'s {thing}, and off they went. <weather> The water was
calm, and they sang a song about the sea.

<time> the sky turned gray. The wind blew, and the waves grew big. The little boat went up and
down, up and down. "I am <scared>," said {friend}. "Hold on to me," said {hero}. "We must stay
together." {hero} [took the oars|held the rope] and [pulled <hard>|did not let go]. {friend} used
{fhis} cap to throw the water out of the boat. "Look, there is land!" {hero} called.

They came to {isl}. They were wet and cold, but they were safe. They ate the {food} and waited for
the storm to [end|go away]. Soon the sun came out and a rainbow stood over the water. Then they
sailed the {colour} boat back home. "We were brave today," said {friend}. "Yes," said {hero},
holding {his} {noun}, "because we were together."
"""
PLOTS["bake"] = """
@dish = a big cake|an apple pie|a chocolate cake|a berry pie|a honey cake|cookies for everyone
  |fresh bread|pancakes
@miss,m2 = eggs|milk|flour|sugar|butter|honey
@nb/n2 = Mrs. Brown/neighbor|the farmer/farmer|the baker/baker|the old miller/miller
  |Mr. Green/neighbor
{hero1} wanted to bake {dish} for {elder}. {he} took a big bowl and a spoon. But when {he} looked
for the {miss}, there was nothing left. "<ohno>! I cannot bake without {miss}," said {hero}. "Let
us ask {nb}," said {friend1}.

They went to {nb} and asked, "May we have some {miss}, please?" "You may," said the {n2}, "if you
help me [sweep the yard|carry some wood|find my glasses|pick up the leaves]." So {hero} and
{friend} helped. Then they ran home with the {miss}. They mixed and stirred and [made a big
mess|had flour on their noses]. They put it all in the oven. Soon it smelled wonderful.

When {elder} came home, {dish} stood on the table. "Did you make this?" {ehe} asked. "Yes, and
{friend} helped me," said {hero}. They gave some to {nb} too, and everyone [ate until they were
full|had a piece|wanted some more]. "It tastes so good," said {elder}, "because you made it with
[love|your friends]."
"""
PLOTS["soup"] = """
@v1,v2,v3,v4 = carrot|potato|onion|bunch of herbs|cabbage|handful of peas|bit of salt|tomato
  |bag of beans|piece of corn
@n1,n2 = the mouse|the goat|the rabbit|the hen|the bear|the duck|the squirrel|the hedgehog
  |the pig
{hero1} was hungry, but there was only one {v1} in the house. It was not enough for soup. {hero}
put a big pot with water over the fire and dropped in the {v1}. Soon {n1} came by. "What are you
making?" asked {n1}. "Soup," said {hero}. "But it needs something more." "I have a {v2}," said
{n1}, and went to get it.

Then {n2} came. "That smells good," said {n2}. "I can bring a {v3}." And {friend1} came and said,
"I have a {v4}!" They put it all in the big pot. {hero} stirred and stirred with a long spoon. The
soup smelled better and better.

When it was ready, they all sat down around the table. There was enough for everyone! "This is the
best soup in the world," said {friend}. "One {v1} makes no soup," said {hero}, "but when everybody
brings a little, there is a feast." They ate and laughed [until the pot was empty|until it was
dark].
"""
PLOTS["music"] = """
@start = none
@inst/sound = drum/boom, boom|flute/toot, toot|guitar/plink, plink|piano/plonk, plonk
  |trumpet/toot, toot|violin/squeak, squeak|horn/honk, honk|harp/pling, pling|whistle/tweet, tweet
@day = the big show|the summer party|the village fair|the spring dance|{elder}'s birthday
  |the school show
{hero1} wanted to play the {inst}. But when {he} tried it, it only went "{sound}!" It sounded
awful. [The cat ran away.|The birds flew off.|The dog began to howl.] {friend1} put {fhis} hands
over {fhis} ears. "Please stop!" {fhe} said. {hero} was <sad> and put the {inst} away.

"[Do not give up|Nobody can do it at first]," said {elder}. "You have to practice a little every
day." So {hero} did. {he} practiced in the morning and in the evening. {he} practiced {at_place},
where nobody could hear {him}. The first week it was still bad. The second week it was better. And
one day {he} could play a whole song!

Then came the day of {day}. {hero} was nervous, but {he} took the {inst} and began to play.
Everyone was quiet. It was so beautiful! When {he} stopped, they all clapped, and {friend} clapped
the loudest. "I am sorry I said stop," said {friend}. "Please play it again!" And {hero} did.
"""
PLOTS["drawing"] = """
@pic,p2,p3 = a horse|a rainbow|a ship|a castle|the sea|a lion|the moon|a whale|a train
  |a tree full of birds|a dragon|a house
@blot/turn = a big drop of paint fell on the paper/a round {colour} sun
  |the cup of water fell over the paper/a wide blue lake
  |a muddy paw stepped on the paper/a little flower
  |{he} dropped the brush on the paper/a long {colour} snake
  |the paper tore a little/a door that could open
  |{he} made a big dark spot/a hole where a mouse lived
{hero1} was painting a picture of {pic}. It was for {elder}, and {he} wanted it to be perfect.
{hero} painted very slowly and carefully. But then {blot}. "<ohno>! It is ruined!" said {hero}.
<cry>.

{friend1} looked at the picture. {fhe} turned {fhis} head to the left and to the right. "It is not
ruined," said {friend}. "Look! To me it looks like {turn}." {hero} wiped {his} eyes. {he} looked
again. {friend} was right! {hero} took {his} brush and painted a little here and a little there.
The mistake became {turn}.

When {elder} saw the picture of {pic}, {ehe} said, "This is wonderful! And what I like most is
{turn}." {hero} and {friend} looked at each other and laughed. {elder} put the picture on the wall.
<learned> a mistake can become something beautiful.
"""
PLOTS["snow"] = """
@start = winter
@hat,h2 = hat|bucket|cap|basket|bowl
@nose,n2 = a carrot|a pine cone|a stick|a red berry|a potato|an acorn
{hero1} looked out of the window. Everything was white! "Snow!" shouted {hero}. {he} put on {his}
warm {colour} coat and ran out. {friend1} was there already. "Let us make a snowman," said
{friend}. They rolled a big ball, a middle ball and a small ball. They used {nose} for the nose and
[stones|buttons|nuts] for the eyes.

"He looks cold," said {hero}. {he} thought for a moment. Then {he} took off {his} long scarf and
put it around the snowman's neck. {friend} gave him {fhis} old {hat}. "Now he is happy," said
{friend}. They [danced around him|sang a song for him|gave him a name] until it got dark.

That night, the wind blew hard. {hero} was worried about the snowman. But in the morning he was
still there, and in his {hat} sat a little bird, safe from the cold wind! "Thank you, snowman,"
said {hero}. Every day, {hero} and {friend} brought crumbs for the bird. And when spring came and
the snowman was gone, {hero} found {his} long scarf on the grass, and the bird sang for them.
"""
PLOTS["rain"] = """
@start = plain
@game = hide and seek with the lamp|pirates under the table|shop with old boxes
  |a castle made of pillows|a boat made of chairs|a band with pots and spoons
{hero1} wanted to go out with {his} {thing}, but it was raining. Drip, drop, drip, drop. The rain
did not stop. "I hate the rain," said {hero}. {he} pressed {his} nose against the window. There was
nothing to do. {hero} was bored.

"Let us make our own fun," said {friend1}. "<yes>," said {hero}, "but how?" {friend} looked around
the room. "We can play {game}," said {friend}. And so they did. They laughed so much that they
forgot all about the rain. {hero}'s {noun} was part of the game too.

<time> it was quiet. {hero} looked up. The rain had stopped! They ran outside. In the sky was a big
rainbow, and there were puddles everywhere. "Look," said {hero}, "without the rain there would be
no rainbow." They jumped into every puddle, splash, splash, splash! When {elder} saw their wet
feet, {ehe} just [laughed|shook {ehis} head and smiled] and gave them warm milk.
"""
PLOTS["wind_hat"] = """
@clothes = hat|cap|scarf|umbrella|ribbon|straw hat
@a1,a2,a3 = a cow|a duck|a goat|an old horse|a snail|a hen|a frog|a dog|a bee|a sheep
@nest = a bird|a mouse|a squirrel|a robin
{hero1} went for a walk {at_place} with a {colour} {clothes}. Whoosh! The wind came and took the
{clothes} away. "Come back!" called {hero}. {he} ran after it. {he} met {a1}. "Have you seen my
{clothes}?" {he} asked. "It flew over the hill," said {the_a1}. {hero} ran over the hill and met
{a2}. "Have you seen my {colour} {clothes}?" "It flew to the trees," said {the_a2}.

{hero} ran to the trees, and there it was, high on a branch! {he} climbed up. But in the {clothes}
sat {nest} with three tiny babies. "Our nest fell down in the wind," said {the_nest}. "This is such
a soft and warm place." {hero} looked at the babies. They were fast asleep. {he} did not want to
wake them.

"You can keep it," said {hero} with a smile. {he} went home without the {clothes}, but {he} was
<happy>. {elder} heard the story and made {him} a new one. And all summer long, {hero} visited the
{colour} {clothes} in the tree and its little family.
"""
PLOTS["treasure"] = """
@st1,st2 = the tall pine tree|the old well|the big gray rock|the broken bridge|the red barn
  |the windmill|the round pond|the stone gate
@n = ten|twenty|seven|twelve|five
@chest/why = a box full of old toys/{elder}'s toys from long ago
  |a box of letters and a golden ring/a gift from {elder}
  |a jar full of shiny stones/the treasure of an old sailor
  |a box with a book of stories/{elder}'s first book
  |a chest full of costumes/left by a traveling circus
  |a bag of flower seeds and a note/a secret of the old gardener
{hero1} found an old map [in a bottle|in a dusty book|under the floor|in an old coat]. There was a
big red cross on it. "It is a treasure map!" said {hero}. {he} showed it to {friend1}. "Let us find
the treasure!" said {friend}. They took a shovel and {hero}'s {thing} and set off.

First they walked to {st1}. Then they had to go {n} steps to {st2}. They counted every step. "Here
is the place," said {hero}. They dug and dug. {friend} got tired. "Maybe there is nothing here,"
{fhe} said. "Just a little more," said {hero}. Then, clunk! The shovel hit something hard.

It was {chest}. "<wow>!" they said. They ran home and showed it to {elder}. {ehe} laughed and told
them the story. It was {why}! {hero} and {friend} shared everything, half and half. "The best
part," said {hero} that night, "was looking for it with you."
"""
PLOTS["wish"] = """
@mag/magic = a golden fish/the fish|a tiny fairy/the fairy|a shining frog/the frog
  |a little star/the star|a silver bird/the bird|a magic stone/the stone
@trap = in a net|under a fallen branch|in a jar|in a deep hole|between two rocks
@other/joy = wished that {friend} could walk again/{friend} jumped up and danced
  |wished for rain for the dry fields/Soft rain fell, and everything turned green
  |wished that the old mill would turn again/The mill began to turn, and there was bread for all
  |wished for enough food for the whole village/There was a long table full of good things
  |wished that nobody would be lonely/Every door in the village opened
{hero1} [saw|met|found] {mag} {at_place}. It was stuck {trap}. "Please help me," it said. {hero}
was surprised, but {he} helped right away. "Thank you," said {magic}. "You were kind to me, so you
have one wish. Think well!"

{hero} thought and thought. {he} could wish for a mountain of {food}. {he} could wish for {a_thing}
or for a castle. But then {he} thought of the others. Things had been hard that year. {friend1},
{his} best friend, had been sad for a long time. {hero} closed {his} eyes and {other}.

There was a flash of light. {joy}! Everybody was amazed. "You did not wish for something for
yourself," said {magic}. "That is the best magic of all." When {hero} came home, there was
{a_thing} on {his} bed with a little note: "For a good heart." {hero} <smiled>.
"""
PLOTS["dragon_fire"] = """
@start = none
@came = bubbles|flowers|smoke rings|snowflakes|butterflies|soap bubbles|feathers|warm air
{hero1} could not breathe fire like the other dragons. When {he} tried, only {came} came out of
{his} mouth. The big dragons laughed. "A dragon without fire is no dragon at all!" they said.
{hero} was <sad> and went away to sit {at_place}.

There {he} met {a_friend}. "Why are you crying?" asked {friend}. "I cannot breathe fire," said
{hero}. "Look." {he} blew, and out came {came}. {friend} laughed and clapped. "That is wonderful!"
{fhe} said. "I have never seen anything so beautiful. Do it again!" {hero} blew again and again,
and [all the children of the village|more and more animals] came to see.

Soon everybody wanted to be {hero}'s friend. Even the big dragons came. "We are sorry," they said.
"Fire only burns things, but your {came} make everyone happy." {hero} was <happy>. <learned> it is
good to be different.
"""
PLOTS["star"] = """
@start = night
@way = a tall ladder|a big kite|a flying owl|the highest hill|a long, long rope
  |a hot air balloon
{hero1} saw something bright {at_place}. It was a little star that had fallen from the sky! "I am
lost," said the star in a tiny voice. "I want to go home, but it is so far." "Do not be afraid,"
said {hero}. "I will help you." {he} put the star into {his} pocket, and it [glowed|shone] like a
lamp.

"How can we get to the sky?" {hero} asked {friend1}. {friend} thought for a long time. "We need
{way}," {fhe} said. So they went on a long walk through the night. The star was afraid of the dark
clouds, and {hero} sang a song for it. At last they had {way}. {hero} lifted the star up as high as
{he} could. "Now jump!" {he} called.

The star jumped, and up it went, higher and higher, until it was back in the sky. It shone brighter
than all the others. "Thank you!" it called. "I will never forget you." Every night, {hero} and
{friend} look up and wave. And the little star winks at them.
"""
PLOTS["fort"] = """
@built = tree house|fort|little hut|castle of branches|raft|bridge over the stream|den|clubhouse
@mat1,mat2 = old boards|branches|stones|boxes|leaves|rope|blankets|straw
{hero1} and {friend1} wanted to build a {built} {at_place}. They got {mat1} and {mat2} and started
right away. {hero} wanted to make it tall. {friend} wanted to make it wide. "My way is better!"
said {hero}. "No, mine is!" said {friend}. They both pulled, and [crash|bang|bump]! Everything fell
down.

They sat on the ground and did not talk. {hero} looked at the {mat1}. {friend} looked at the
{mat2}. "It was my fault," said {hero} at last. "I am sorry." "I am sorry too," said {friend}. "Let
us listen to each other this time." They made a plan. {hero} held the {mat1}, and {friend} put the
{mat2} on top. It was a little tall and a little wide.

In the evening, the {built} was ready. They put {hero}'s {thing} in it, and it looked just like
home. {elder} brought some {food}. "This is the best {built} I have ever seen," {ehe} said. "We
built it together," said {hero} and {friend} at the same time, and they laughed.
"""
PLOTS["bike"] = """
@ride = bike|scooter|skateboard|sled|pair of skates
{hero1} got a new {colour} {ride}. {he} wanted to ride it right away. But when {he} tried, {he}
fell down. Bump! {he} tried again and fell down again. "It is too hard," said {hero}. {his} knee
hurt. "I will never learn it!"

{friend1} came and sat down next to {him}. "I fell down a hundred times," said {friend}. "See this
spot on my knee? Then one day I could do it. [Look ahead and not at your feet|Do not be afraid to
fall]." {hero} wiped {his} face and got up. {friend} held on to {him} and ran along. "Do not let
go!" said {hero}. "I already did!" laughed {friend}.

{hero} was riding all alone! The wind was in {his} hair, and {he} went faster and faster. "Look at
me, {evoc}!" {he} called to {elder}. {elder} waved and cheered. That night, {hero} said good night
to the {colour} {ride}. <learned> if you fall down, you just get up again.
"""
PLOTS["sick"] = """
@ill = a cold|a fever|a sore throat|a bad cough|a broken leg|the flu|a tummy ache
@g1,g2,g3 = a funny picture|a warm soup|a bunch of flowers|a book of stories|some {food}
  |a soft blanket|a paper bird|a song
{hero1} waited for {friend1} {at_place}, but {friend} did not come. {hero} went to {fhis} house and
knocked on the door. {friend} was in bed with {ill}. "I cannot play today," said {friend} in a weak
voice. {fhe} looked pale and <sad>.

"Then I will play here with you," said {hero}. {he} ran home and thought about what to bring. First
{he} brought {g1}. {friend} smiled a little. Then {he} brought {g2}. {friend} smiled some more.
Then {hero} sat down beside the bed with {g3}, and {he} [told one joke after another|stayed all
afternoon|made funny faces]. {friend} laughed out loud.

"I feel better already," said {friend}. After three days {fhe} was well again, and the two ran
outside to play. A week later, {hero} got sick too. Who do you think came to {his} door with {g2}?
It was {friend}! "Now it is my turn," {fhe} said. And {hero} felt better at once.
"""
PLOTS["mean_kind"] = """
@bully/who = a big wolf/wolf|a grumpy bear/bear|an angry goose/goose|a big boy/big boy
  |a mean crow/crow|a grumpy troll/troll|a rude goat/goat|a loud giant/giant
@hurt = a thorn in his foot|a pain in the belly|a bad cold|a burr in his back
{hero1} was playing with {friend1} {at_place} when {bully} came. "Go away! This is my place!"
shouted the {who}. He took {hero}'s {thing} and laughed. {friend} was <scared> and ran behind a
tree. {hero} was scared too, but {he} wanted {his} {noun} back.

The next day, {hero} went to look for the {who}. {he} found him sitting all alone, and he was
crying. "What is wrong?" asked {hero}. "I have {hurt}," said the {who}, "and nobody wants to help
me, because I am so mean." {hero} could have walked away. But {he} said, "I will help you. Hold
still." Soon the pain was gone.

The {who} looked at {hero} for a long time. "I was not nice to you," he said. "Why did you help
me?" "Because you needed help," said {hero}. The {who} gave back the {thing} and said, "I am
sorry." After that, he was not mean any more. He played with {hero} and {friend} every day, and he
was a very good friend.
"""
PLOTS["bridge"] = """
@gap = river|deep ditch|stream|wide puddle|canyon
@other/side = the berries/There were so many ripe berries
  |grandma's house/Supper was waiting there|the fair/They could hear the music
  |the school/The bell was ringing
{hero1} and {friend1} wanted to get to {other} on the other side of the {gap}. But the old bridge
was broken. {side}, but there was no way across. "We could jump," said {hero}. "It is too wide,"
said {friend}. "We could swim," said {hero}. "It is too cold," said {friend}. They sat down and
thought.

Then {hero} saw a [fallen tree|long board|thick log]. "We can use this!" {he} said. {he} pushed
<hard>, but it did not move. {friend} pushed too, but it was too heavy. They asked a strong
[bear|horse|ox|farmer] for help. "One, two, three!" they said, and it moved. They pushed it across
the {gap}. Now there was a new bridge!

{hero} went first, with arms out wide, one foot after the other. Then came {friend}. They were on
the other side! The next day, everyone used the new bridge, and everyone said thank you. {hero} and
{friend} gave it a name. They called it the Friends' Bridge.
"""
PLOTS["school"] = """
@start = none
@teach = Miss Rose|Mr. Owl|Mrs. Bell|Miss Hill|Mr. Gray|Mrs. Fox|Miss Moon|Mr. Wood
@lesson = count to ten|sing a song|paint with their fingers|read a story|make a mask|plant beans
It was {hero}'s first day of school. {he} held {elder}'s hand very tight. "What if nobody likes
me?" {he} asked. "Just be yourself," said {elder}, "and take your {thing} with you. It will keep
you safe." {hero} put the {noun} into {his} bag.

The room was full of children, and it was loud. {hero} sat down in the corner. {he} was <scared>.
"Hello," said {teach}, the teacher. "You can sit next to {friend}." {friend} looked just as scared
as {hero}. "Is it your first day too?" asked {hero}. {friend} nodded. {hero} took out the {thing}.
"Do you want to hold it?" {he} asked. {friend} did, and {fhe} smiled.

Then they learned to {lesson}, and it was fun. When {elder} came, {hero} did not want to go home.
"School is great!" {he} said. "And this is my friend {friend}." The next day, {hero} left {his}
{noun} at home. {he} did not need it any more, because {he} had a friend.
"""
PLOTS["market"] = """
@n = three|five|ten|two
@poor/p = a hungry boy/the boy|an old woman with no shoes/the old woman
  |a girl with an empty basket/the girl|a man with a sick horse/the man
{hero1} had saved {n} coins. {he} wanted to buy {a_thing} at the market. {he} had seen it in the
window every day for a long time. {hero} put the coins in {his} pocket and [skipped|ran|walked] all
the way to the market. There was [music everywhere|so much to see].

Near the gate sat {poor}. Nobody stopped. {hero} walked past, but then {he} turned around. {he}
felt the coins in {his} pocket. {he} thought of the {thing}, and {he} looked at {p} again. "Here,"
said {hero} and held out {his} hand. "Please buy some bread." The eyes of {p} filled with tears.
"Thank you, kind {boy}," said {p}. "I will not forget this."

{hero} went home without the {noun}. {he} told {elder} what had happened. {elder} <hug> and said,
"I am so proud of you." The next morning there was a box at the door. Inside was the {thing}! There
was a note: "From someone who saw what you did." {hero} <smiled> and ran outside to share it with
{friend1}.
"""
PLOTS["kitten"] = """
@pet/sound/want = kitten/meow/some milk|puppy/woof/a bone|rabbit/squeak/a carrot
  |parrot/hello/some seeds|hamster/squeak/some nuts|lamb/baa/some hay
@pname = Snowball|Shadow|Lucky|Star|Cloud|Button|Pepper|Sunny|Muffin|Sir Fluff|Moon|Tiger
{hero1} opened the door, and there sat a wet little {pet}. "{sound}," it said. It was cold and
hungry. "Can we keep it, {evoc}? Please?" asked {hero}. "It must have a home somewhere," said
{elder}. "But it can stay tonight." {hero} dried the {pet} and gave it {want}. {he} called it
{pname}.

The next day they asked everyone in the [street|village|town]. "Is this your {pet}?" asked {hero}.
"No," said the baker. "No," said the postman. {hero} was a little glad each time. At the last
house, {friend1} opened the door. "It is not mine," said {friend}, "but it looks very happy with
you."

So they went home. "Nobody has lost a {pet}," said {hero}. {elder} looked at {pname}, and {pname}
looked at {elder} with big round eyes. "Well," said {elder}, "I think it has found its home."
{hero} jumped for joy. {pname} slept at the foot of {hero}'s bed that night, and every night after
that. "{sound}," said {pname}, and that meant thank you.
"""
PLOTS["pet_find"] = """
@pet/says = dog/woof, woof|cat/meow, meow|dog/bark, bark|puppy/yip, yip|pony/neigh, neigh
  |parrot/squawk, squawk
@found/act = a little girl who was lost/They took her by the hand and brought her home
  |a lamb stuck in the mud/They pulled it out together
  |an old man who had fallen/They helped him up and walked him home
  |a wallet full of money/They brought it back to the man who had lost it
  |a tiny kitten in a box/They carried it home and gave it milk
  |a bird in a net/They set it free, and it flew away
  |a hole in the dam/They ran to tell the farmer, and the village was saved
{hero1} and {his} {pet}, {pet_name}, went for a walk {at_place}. {pet_name} loved to [run
ahead|chase leaves|sniff at everything]. {hero} threw a stick, and {pet_name} brought it back.
<weather> They were having a good time.

All at once {pet_name} stopped. "{says}!" went {pet_name}. "What is it?" asked {hero}. {pet_name}
pulled at {his} sleeve and ran down the path. "Wait for me!" called {hero}. {he} ran after
{pet_name}, over a fence and around a corner. And there {he} saw {found}! "Good job, {pet_name}!"
said {hero}.

{act}. Everyone said thank you. "It was not me," said {hero}. "{pet_name} is the real hero." When
they came home, {elder} gave {pet_name} a big [bowl of food|treat|hug]. {hero} scratched {his}
{pet} behind the ears. "You are the best {pet} in the world," {he} said. "{says}!" said {pet_name}.
"""
PLOTS["box"] = """
@b1,b2,b3 = a ship on the wild sea|a rocket to the moon|a castle with a king|a race car|a train
  |a submarine|a bear cave|an airplane
{hero1} found a big empty box. It was as tall as {he} was. "It is only an old box," said {friend1}.
"No," said {hero}, "it can be anything!" {he} climbed in. "Today it is {b1}. Do you want to come
along?" {friend} laughed and climbed in too.

First they [sailed|flew|raced] far away. They saw [whales and islands|stars and clouds|lions and
deep woods]. Then the box was {b2}. "Hold on tight!" cried {hero}. {friend} held {hero}'s {thing}
and gave the orders. They played all day. Then a few drops fell. It began to rain, and the box got
wet and soft. <time> it fell apart. "Now it is gone," said {friend} sadly.

{hero} thought for a moment. Then {he} took two chairs and a blanket and put the {noun} on top.
"Look," said {hero}, "now this is {b3}!" {friend} clapped {fhis} hands. They did not need the box
at all. <learned> the best toy is in your head.
"""
PLOTS["moon"] = """
@start = night
@lonely/talk = the moon/said the moon with a silver voice|a little cloud/said the cloud softly
  |the old oak tree/said the tree in a deep voice|the lighthouse/said the lighthouse
  |the north wind/said the wind|a scarecrow/said the scarecrow
@know,k2 = a song|a poem|a funny story|a joke|a riddle|a lullaby
{hero1} could not sleep, so {he} went outside. There {he} heard somebody crying. It was {lonely}!
"Why are you crying?" asked {hero}. "I am alone all the time," {talk}. "Everyone is asleep or far
away, and nobody talks to me." "I will talk to you," said {hero}.

{he} sat down on the grass and told {know}. {lonely} listened and laughed. Then {hero} showed {his}
{thing} and told where it came from. They talked about the day and the night, the sea and the
stars. It was very late when {hero} went back to bed.

The next day, {hero} told {friend1} about it. "Let us go together," said {friend}. That night they
both went out, and the night after that more friends came along. They sang and told stories, and
{lonely} was never alone again. When you go out at night and listen, you may hear them laugh.
"""
PLOTS["greedy"] = """
@p1/p2 = berries/bush|cherries/tree|plums/tree|apples/tree|nuts/tree|pears/tree
  |strawberries/patch
{hero1} found a {p2} full of ripe {p1} {at_place}. "They are all mine!" said {hero}. {friend1} came
by. "May I have some {p1} too?" asked {friend}. "No," said {hero}. "I found them first." {friend}
went away. {hero} ate and ate. {he} ate until {he} could not eat any more.

Then {his} tummy began to hurt. "Ouch, ouch!" said {hero}. {he} lay down in the grass and could not
move. {friend} heard {him} and came back. "You ate too much," said {friend}. {fhe} brought some
water and [a warm blanket|some mint tea] and stayed with {him} until the pain was gone.

"You are so good to me, and I was not good to you," said {hero}. "I am sorry." The next day, {hero}
picked the last {p1}, put them in a {colour} basket and gave it to {friend}. "These are for you,"
{he} said. "Only if you eat with me," said {friend}. So they ate the {p1} together, and they tasted
much sweeter than before.
"""
PLOTS["messy"] = """
@start = none
@m1,m2,m3 = socks on the lamp|books on the floor|toys under the bed|crumbs on the chair
  |shoes on the shelf|paper everywhere|a boot in the bed
{hero}'s room was very messy. There were {m1} and {m2}. "Please clean your room," said {elder}.
"Later," said {hero}. {he} always said later. Then {friend1} came. "Let us play with your {thing}!"
said {friend}. {hero} looked for {his} {noun}, but {he} could not find it.

{he} looked left and {he} looked right. {he} fell over [a shoe|a toy truck|a pile of books]. "It
must be somewhere!" said {hero}. "There is only one way to find it," said {friend}. "We have to
clean up." {hero} sighed. They put the books on the shelf and the toys in the box. It was not so
bad with two. They even made a game out of it.

Under the very last [sock|pillow|shirt] they found the {thing}! "<wow>, there it is!" said {hero}.
{elder} came in and could not believe {ehis} eyes. "What a clean room!" {ehe} said. Now there was a
lot of space to play. After that, {hero} put everything back in its place, and {he} never lost
{his} {noun} again.
"""
PLOTS["sleepless"] = """
@c1,c2,c3 = count sheep|drink warm milk|sing softly|think of something nice|listen to the rain
  |look at the stars|hug a pillow
@start = night
{hero1} could not sleep. {he} turned to the left and {he} turned to the right. "Try to {c1}," said
{elder}. {hero} tried it, but {he} was still awake. "Try to {c2}," said {his}
[brother|sister|cousin]. {hero} tried it too, but it did not help. The moon looked in at the
window.

Then {hero} saw that {his} {thing} was not there. "That is why I cannot sleep!" {he} said. "I miss
my {noun}!" {elder} took a lamp, and together they looked for it. They looked in the kitchen and on
the stairs. They found it {at_place}, where {hero} had played that day. It was [wet with dew|cold
from the night air] and a little dirty.

{elder} [cleaned|dried] it and put it next to {hero}. "Good night, {voc}," {ehe} said. "Good night,
{evoc}. Good night, {noun}," said {hero} and yawned. {he} held the {thing} close, and before
{elder} had closed the door, {hero} was fast asleep.
"""
PLOTS["hide_seek"] = """
@s1,s2,s3 = behind the curtain|under the table|in a big basket|behind the barn
  |in the hollow tree|under the wagon|behind the hedge|in the hay
@give = a sneeze|a giggle|a hiccup|a snore|a sigh
{hero1} and {friend1} played hide and seek {at_place}. {hero} counted to ten, and {friend} hid.
"Ready or not, here I come!" called {hero}. {he} looked {s1}. Nobody was there. {he} looked {s2}.
Nobody was there either. "Where is {friend}?" {hero} wondered. {he} looked and looked, and it got
late.

{hero} began to worry. "{friend}, come out! You win!" {he} called, but there was no answer. What if
something had happened? {he} ran to {elder}. "I cannot find {friend}!" {he} said. {elder} took
{his} hand. "Let us be very quiet and listen," {ehe} said. They stood still. Then they heard
{give}.

They looked {s3}. There was {friend}, [fast asleep|curled up like a cat]. {fhe} had waited so long
that {fhe} had fallen asleep. {friend} rubbed {fhis} eyes. "Did I win?" {fhe} asked. "You sure
did!" said {hero}, and {he} was so glad that {he} gave {friend} a big hug. Next time, they agreed
to hide for only a little while.
"""
PLOTS["letter"] = """
@start = none
@far = on the other side of the sea|behind the mountains|in a far city|on an island|in the north
  |a long train ride away
@w1,w2 = the first snow|the old cat|the big storm|the new bridge|the tall sunflower
  |the village fair|a funny dream|the loose tooth
{hero1} was <sad>, because {his} best friend {friend} had moved away. Now {friend} lived {far}. "I
miss {fhim} so much," said {hero}. "Who will play with me now?" "You could write a letter," said
{elder}. "I do not write very well," said {hero}. "Then draw a picture too," {ehe} said.

So {hero} sat down and wrote about {w1} and {w2}. {he} drew the two of them with {his} {thing}.
{elder} put a stamp on the letter, and {hero} took it to the post. Then {he} waited. One day, two
days, a whole week went by. Every morning {he} looked for the postman.

At last a letter came! It was from {friend}. "Dear {name}," it said, "I miss you too. I put your
picture over my bed. In the summer I will come to visit you!" {hero} read it ten times. {he} was so
happy that {he} danced around the room. When summer came, {friend} really came, and it was as if
{fhe} had never been away.
"""
PLOTS["fog"] = """
@start = none
@light2/verb2/heard2 = lamp/held it up and waved it/saw|lantern/held it up and swung it/saw
  |bell/rang it/heard|drum/beat it/heard|horn/blew it/heard|whistle/blew it/heard
{hero1} and {elder} stood on the shore one evening, when a thick fog came in from the sea. It was
so thick that nobody could see the water. "The boats are still out there," said {elder}. "They will
not find the way home." {hero} was <scared>, because {friend1} was on one of the boats.

{hero} took {his} {colour} {light2} and ran down to the shore. {he} {verb2} again and again. The
wind was cold, and {his} arms got tired, but {he} did not stop. "Please come home," {he} whispered.
For a long time nothing happened. Then there was a small shadow in the fog. It was a boat, and then
another one, and another one.

"We {heard2} your {light2}!" called {friend}. "It showed us the way!" One after the other, all the
boats came home. The fishermen lifted {hero} up high and cheered. "You are so small," they said,
"but you saved us all." And the {colour} {light2} has hung at the harbor ever since.
"""
PLOTS["small_voice"] = """
@start = none
@job/why = squeeze through the little hole/a lamb had fallen into an old well
  |crawl under the door/the key was locked inside the house
  |climb into the thin branches/the king's kite was stuck high in a tree
  |fit into the small window/the baby was locked in the room
  |go into the cave/a puppy was stuck in a narrow cave
{hero1} was the smallest of all. "You are too small to play ball," said {friend1}. "You are too
small to carry the basket," said the others. {hero} wished to be big. {he} ate a lot of {food} and
stretched every morning, but {he} did not grow.

Then one day there was trouble: {why}. The big ones tried to help, but they were too big. Nobody
could {job}. Everyone was <scared>. "I can do it," said a little voice. It was {hero}! "I am small
enough." {he} took a deep breath, and {he} was brave. Everybody waited. It was very quiet.

A moment later, {hero} came back, and everything was all right. "You did it!" they all cheered.
{friend} lifted {him} up on {fhis} shoulders. "We were wrong," {fhe} said. "You are small, but you
are a great hero." {hero} <smiled>. It was not so bad to be small.
"""
PLOTS["turnip"] = """
@veg = turnip|pumpkin|carrot|radish|beet|cabbage
@h1,h2,h3 = the dog|the cat|the cow|the goose|the goat|the pig|the hen|the horse
{hero1} planted a {veg}, and it grew so big that {he} could not pull it out. {he} pulled <hard>,
but the {veg} did not move. So {he} called {elder}. {hero} and {elder} pulled and pulled, but the
{veg} did not move. {elder} called {h1}. They all pulled, but it still did not move.

{h1} called {h2}, and {h2} called {friend1}. They pulled and pulled, and they all fell down. "It is
no use," said {elder}. "It is too big." Then a tiny mouse came. "Let me help," she said. Everybody
laughed. "You are much too small!" said {friend}. "Let her try," said {hero}. "Every little bit
helps."

The mouse held on to {friend}, {friend} held on to {h2}, and so on, all the way to {hero}. "One,
two, three!" They pulled once more and, plop, out came the giant {veg}! That evening they made
[soup|pie|a feast] out of it, and the biggest bowl was for the tiny mouse.
"""
PLOTS["stage"] = """
@part = tree|king|queen|moon|lion|sun|bird|snowflake|pirate|frog
@line = I bring the light|Good day to all|Here I am|The night is over|Follow me, my friends
  |Spring is here
{hero1} had a part in the play. {he} was the {part}, and {he} had to say, "{line}!" {hero}
practiced every day with {friend1}. But when the big evening came, {he} looked through the curtain
and saw so many faces. {his} knees shook. "I forgot my words," {he} whispered. "I cannot go out
there."

{friend} took {his} hand. "Look only at me," said {friend}, "and say it just for me." The curtain
opened. {hero} stepped out. It was so quiet that {he} could hear {his} own heart. {he} looked for
{friend}, and there {fhe} was, smiling at {him}. {hero} took a deep breath. "{line}!" {he} said,
loud and clear.

Everybody clapped. {elder} stood up and clapped the longest. After the play, {hero} ran to
{friend}. "You helped me so much," {he} said. "You did it yourself," said {friend}. "You were the
best {part} in the world." That night, {hero} said in {his} sleep, "{line}!"
"""
PLOTS["train"] = """
@where = the sea|the big city|the mountains|{elder}'s old home|the zoo|the lake|the circus
@person/p = a lady with a green hat/the lady|a man with a long beard/the man
  |a boy with a cello/the boy|a girl with a cat/the girl|a sailor/the sailor
{hero1} went on a train for the first time. {he} and {elder} wanted to go to {where}. {hero} sat by
the window with {his} {thing}. Houses and cows flew by. Across from them sat {person}. At the next
stop {p} got off, and the train went on. Then {hero} saw a bag on the seat. "<ohno>," said {hero}.
"Somebody forgot the bag!"

"What can we do?" asked {hero}. "The train does not stop for a long time." {he} ran to the
conductor and told him everything. The conductor called the station. "You have good eyes," he said.
At the next stop they gave the bag to the station master, and he promised to send it back.

A week later, a letter came. It was from {p} on the train. "In that bag was a picture of my
mother," it said. "Thank you for your help." In the letter were two tickets to {where}! So {hero}
and {elder} got on the train again, and the {noun} sat by the window.
"""
PLOTS["sandcastle"] = """
@deco,d2 = shells|feathers|colored stones|seaweed|little sticks|flags
@home = a tiny crab|a small snail|a little turtle|a sand flea|a baby crab
{hero1} built a big sandcastle at the beach. It had [four towers|a high wall|a deep moat] and was
covered with {deco}. "I am the {king} of the castle," said {hero}. {friend1} helped to carry the
water. But the sea came closer and closer. "Oh no, the waves!" said {friend}. They built a wall of
sand, but the water broke it.

Splash! A big wave came, and half of the castle was gone. <cry>. "All our work!" {he} said. "We can
build a new one," said {friend}, "farther away from the sea." "It will not be the same," said
{hero}. But then {he} saw something move. In the last tower sat {home}. It had found a new home!

"We have to save it," said {hero}. {he} carried {the_home} up the beach in a bucket. There they
built a new castle, even bigger than the first, with {d2} on top, and {the_home} moved in. The
waves did not come that far. When the sun set over the sea, {hero} said, "A castle is nicer when
somebody lives in it."
"""
PLOTS["fly"] = """
@w1/bad = wings of paper/they tore at once|wings of leaves/they fell apart
  |a big kite/the wind dropped it in the mud|two umbrellas/they turned inside out
  |wings of feathers/{he} landed in a bush
@ride = a kind goose|a big owl|an old eagle|a white swan|a hot air balloon|a gentle dragon
{hero1} wished to fly like the birds. {he} made {w1} and jumped off a [rock|bench|low wall]. But
{bad}. Bump! {he} sat on the ground and rubbed {his} back. "You cannot fly," said {friend1}. "You
do not have wings." "I will find a way," said {hero}.

{he} tried again the next day, and the day after that. {he} never gave up. High in the sky there
was {ride}, and from up there somebody watched {him}. One evening {the_ride} came down and landed
right in front of {him}. {hero} could not believe {his} eyes. "Would you like to come along?" said
a voice. "<yes>!" cried {hero}. "And can {friend} come too?"

Up they went, higher than the [houses|trees] and higher than the clouds. The village was as small
as a toy. {friend} held on tight and laughed. "I was wrong," {fhe} said. "There is always a way."
When they were back on the ground, {hero} looked up and whispered, "I can fly."
"""
PLOTS["lamb_storm"] = """
@start = none
@p1x,p2x,p3x = by the stream|behind the hill|near the old wall|in the little woods
  |under the big oak|on the path|by the bridge
@who/ps = sheep/sheep|goat/goat|pony/pony|cow/cow|hen/hen|donkey/donkey|calf/calf
{hero1} helped {elder} on the farm. One evening a storm came up. There was thunder and lightning.
{hero} counted the animals in the barn. One {who} was missing! "I have to go and find it," said
{hero}. "I will come with you," said {friend1}. They took a lantern and went out into the rain.

"Where are you?" they called. The wind was so loud that they could not hear a thing. They looked
{p1x} and {p2x}. Then lightning lit up the sky, and {hero} saw the {who} {p3x}. It was wet and
afraid, and its leg was caught. {hero} talked to it softly while {friend} set the leg free. "Easy
now," {he} said. "We have got you."

Step by step, they led the {who} back to the barn. {elder} was waiting with warm blankets and hot
[tea|soup|milk]. "I was worried, but I am very proud," {ehe} said. The {who} put its wet nose on
{hero}'s shoulder. Outside, the storm went on all night, but in the barn it was warm, and all the
animals were there.
"""
PLOTS["tooth"] = """
@start = none
@try1,try2 = eat an apple|pull it with a string|wiggle it all day|brush very hard
  |bite into a carrot
{hero1} had a loose tooth. It went wiggle, wiggle, but it did not come out. {friend1} had lost a
tooth already and was very proud of it. "When will mine come out?" asked {hero}. "Try to {try1},"
said {friend}. {hero} tried it, but the tooth stayed in. "Try to {try2}," said {elder}. {hero}
tried that too. Still nothing.

"I will have this tooth forever," said {hero}. {he} went out to play {at_place} with {his} {thing}
and forgot all about it. {he} ran and laughed, and then {he} sneezed. Achoo! Something small flew
into the grass. "My tooth!" shouted {hero}. They got down on their knees and looked for it. "Here
it is," said {friend}, and it was as white as snow.

That night, {hero} put the tooth under {his} pillow. In the morning there was a shiny coin! {hero}
showed everyone the hole in {his} smile. "You see," said {elder}, "some things come when you stop
waiting for them."
"""
PLOTS["different"] = """
@start = none
@dif/use = big ears/heard the thunder long before the others. "A storm is coming! Run to the cave!"
  |a long tail/let the others hold on to it and pulled them out of the deep mud. "Hold on tight!"
  |a loud voice/called for help so loud that all the people came. "Help, help!"
  |bright red hair/stood on the hill in the snow, where everyone could see the color. "This way!"
  |very long legs/walked through the high water and carried the little ones. "Climb on my back!"
  |a big nose/smelled the smoke in the night and woke everybody up. "Wake up, there is a fire!"
{hero1} had {dif}. Nobody else looked like that. The others pointed and laughed. "You look funny!"
they said. {hero} went home and looked in the mirror. "I wish I looked like everybody else," {he}
told {elder}. "You are just right the way you are," said {elder}. "One day you will see."

The next day, they all went for a long walk {at_place}. {hero} walked behind the others. Only
{friend1} walked next to {him}. "I like you just as you are," said {friend}. Then all at once there
was danger. {hero} {use} {he} shouted. And so {he} saved them all.

The others stood around {him}. "Thank you," they said. "We were not nice to you. Your gift saved
us." Now nobody laughed any more. {hero} looked in the mirror that night and smiled. {he} would not
change a thing.
"""
PLOTS["baby"] = """
@start = plain
@sib/s = brother/he|sister/she
@calm = sang a little song|made a funny face|played peekaboo|danced like a bear
  |blew soap bubbles|shook a little bell
{hero1} got a new baby {sib}. Everybody came to look at the baby. They brought presents and said,
"How sweet!" Nobody [looked at|asked about] {hero}. {he} [sat in the corner|went to {his} room]
with {his} {thing} and felt <sad>. "They do not need me any more," {he} told the {noun}.

Then the baby began to cry. {elder} tried everything. {ehe} rocked the baby and gave it milk, but
it only cried louder. {hero} [came closer|looked into the cradle]. {he} {calm}. The baby stopped
crying and looked at {him} with big eyes. Then it laughed! "That was its very first laugh," said
{elder}, "and you made it happen."

{hero} [felt tall and strong|felt warm inside|was very proud]. {he} put the {thing} next to the
baby. "You can hold it," {he} said, "but it is mine." {elder} <hug>. "There is enough love for
two," {ehe} said. And {hero} knew that it was true.
"""
PLOTS["library"] = """
@start = plain
@about = pirates|dragons|the stars|a brave mouse|trains|a lost princess|whales|a magic tree
  |clever foxes|the moon
@mess = a big puddle|the mud|a little stream|a bucket of water
{hero1} borrowed a book about {about} from the library. It was the best book in the world! {he}
read it in bed and at breakfast. But on the way back to the library, {hero} [slipped|tripped over a
stone], and the book fell into {mess}. All the pages were wet. "<ohno>!" said {hero}. "What will
Mrs. Page say?"

{friend1} said, "You could put it back on the shelf and say nothing." {hero} thought about that.
"No," {he} said, "I have to tell her." So they went in. Mrs. Page looked at the book over her
glasses. "I am so sorry," said {hero}. "I will pay for it. I have three coins." Mrs. Page did not
take the coins. "You can help me in the library instead," she said.

So every Saturday, {hero} put books back on the shelves. {friend} came to help as well. They found
so many new stories there! On the last day, Mrs. Page gave {hero} a present. It was a new book
about {about}. "For my best helper," she said. {hero} <smiled>.
"""
PLOTS["robot_feel"] = """
@start = none
@job = sweep the floor|carry boxes|count nails|water the plants|wash the dishes|sort screws
{hero1} worked in a big workshop. Every day {he} had to {job}, and then {he} had to {job} again.
One evening {friend1} said, "You work all the time. What do you like to do?" {hero} did not know.
Nobody had ever asked {him} that.

"Let us find out," said {friend}. They tried to dance, and {hero} fell over. They tried to sing,
and {hero} went beep. They went outside {at_place} and looked at the evening sky. It was [pink and
gold|red and orange|purple and gold]. {hero} stood very still. "What is this feeling?" {he} asked.
"It is warm, and it is here." {he} put a hand on {his} chest. "I think you are happy," said
{friend}.

After that, {hero} still worked in the day, but every evening {he} went out with {friend} to see
the sky. {he} even painted it, with a {colour} brush. The pictures hung all over the workshop, and
everybody who saw them felt that same warm feeling.
"""
PLOTS["contest"] = """
@start = plain
@what/funny = the biggest pumpkin/a pumpkin as small as a nut
  |the best cake/a cake that had fallen flat|the loudest song/a very quiet song
  |the tallest tower/a tower of three stones|the finest hat/a hat made of leaves
  |the prettiest flower/one little daisy
@ruler/r = the king/he|the queen/she
{hero1} heard that {ruler} was looking for {what}. "I will win!" said {hero}. But everything went
wrong. When the day came, all {hero} had was {funny}. The others had such grand things. They
[laughed|smiled] when they saw it. {hero} wanted to go home.

"Stay," said {friend1}. "You did your best." {ruler} walked past the long row. "Too much," {r}
said, and "Too grand," {r} said. Then {r} stopped in front of {hero}. "What is this?" {r} asked.
"It did not turn out as I hoped," said {hero} in a small voice, "but I made it with all my heart."
{ruler} looked at it for a long time.

"When I was little, I had one just like this," said {ruler}, "and I loved it." {hero} got a
{colour} ribbon, and {friend} cheered. It was not for {what}. On the ribbon was written: For the
biggest heart. {hero} wore it all the way home.
"""
PLOTS["picnic"] = """
@guest/g = a line of ants/the ants|a hungry raccoon/the raccoon
  |two cheeky squirrels/the squirrels|a family of ducks/the ducks|a big gray goose/the goose
@do = danced|played ball|lay in the grass|flew a kite|told riddles
{hero1} and {friend1} made a picnic {at_place}. They had {food} and {food2} and a {colour} blanket.
They put everything down and {do} for a while. But when they came back, half of the food was gone!
"Who did that?" asked {hero}. "[It was not me|I did not do it]," said {friend}. "Then who was it?"
They looked at each other and got angry.

Then they saw a trail of crumbs. It went around the tree and under the bush. They followed it on
tiptoe. And there was {guest}, with the rest of the {food}! {hero} began to laugh, and {friend}
laughed too. "I am sorry that I thought it was you," said {hero}. "I am sorry too," said {friend}.

They [sat down|went back] and ate what was left. It was not much, but it was enough. They put some
crumbs on a leaf for {g}. "Next time we will bring more," said {hero}, "because we have guests."
Then they shook out the {colour} blanket and went home.
"""
PLOTS["cave"] = """
@inside/did = a sleeping bear/The bear opened one eye and only wanted to be scratched
  |a thousand crystals/They shone like stars in the light
  |an old painting on the wall/It showed a boy and a girl, just like them
  |a small warm lake/They put their feet in it
  |a lonely bat/The bat was happy to have somebody to talk to
  |a dragon egg/It cracked, and a tiny dragon looked out
{hero1} and {friend1} found a cave {at_place}. It was dark and cool. "Hello!" called {hero}.
"Hello, hello, hello," said the cave. "Who is there?" asked {friend} and took a step back. "It is
only the echo," said {hero}, but {he} was <scared> too. They looked at each other. "Shall we go
in?" "Only if you hold my hand."

{hero} held up a little lamp. They went in step by step. Water dripped from above. The cave turned
to the left and then to the right. <time> the lamp went out! "Do not let go," whispered {friend}.
"I will not," said {hero}. They felt their way along the cold wall. Then they saw a soft light.

It was {inside}! {did}. They stayed [until they got hungry|for a long time]. On the way back, they
were not afraid at all. "It is our secret," said {hero}. "Our secret," said {friend}. "Secret,
secret, secret," said the cave.
"""
PLOTS["clock"] = """
@start = none
@old/short = an old clock/the clock|an old music box/the music box|an old toy train/the train
  |an old radio/the radio|an old windmill/the windmill
@miss = a tiny wheel|a little spring|a small screw|a golden pin
In the house of {hero}'s {kin} stood {old}. It had been silent for years. "It is broken," said
{elder}. "Nobody can fix it." {hero} looked at it from all sides. "May I try?" {he} asked. {elder}
laughed and said, "Why not?"

{hero} took {short} apart and put all the pieces on {his} {colour} blanket. {he} cleaned them one
by one. Then {he} put them together again, but {short} was still silent. {he} took it apart a
second time. "There is a piece missing," said {hero}. "It is {miss}!" {hero} and {friend1} looked
in every corner. At last {friend} found {miss} between two boards in the floor.

{hero} put it in its place. {he} held {his} breath. Click! {short} began to move, and a soft sound
filled the room. {elder} came in with wet eyes. "I have not heard that since I was small," {ehe}
said and <hug>. That evening they all sat together and listened.
"""
PLOTS["pirate"] = """
@ship = Golden Duck|Red Herring|Brave Snail|Flying Fish|Silver Moon|Happy Whale
@prize/real = a chest of gold/it was full of chocolate coins
  |a pearl/it was only a white stone, but a very pretty one
  |a crown/it was made of paper, but it fit|a magic lamp/it gave a warm light, and that was enough
{hero1} was the captain of a ship called the {ship}. {friend1} was the sailor. The ship was really
an old boat {at_place}, but that did not matter. "All hands on deck!" shouted {hero}. "Yes,
captain!" said {friend}. They put up a flag with {hero}'s {thing} on it and set off to find
{prize}.

There was a storm, and there was a sea monster. {hero} was very brave. "I want to be captain now,"
said {friend}. "No, I am the captain," said {hero}. {friend} got out of the boat and went away. A
ship with no sailor is a sad ship. {hero} sat there [for a while|all alone], and then {he} ran
after {friend}. "[You can be captain|Let us both be captain]!" {he} called.

So they sailed on, and {friend} saw it first: there was {prize} under a bush! They opened their
eyes wide. Well, {real}. They shared it like good pirates. "Home, captain?" asked {hero}. "Home,
captain," said {friend}, and the {ship} sailed home for supper.
"""

# ------------------------------------------------------------------------------------ rewording

SWAPS = """thought for a moment=thought about it for a while|thought hard|was quiet for a moment
took a deep breath=took a long breath|closed {his} eyes for a second|breathed in and out
looked and looked=searched everywhere|looked high and low|looked for a long time
tried and tried=tried again and again|kept trying|tried many times
the next day=the next morning|on the following day
that night=that evening|later that night|when night came
all day long=the whole day|from morning to evening
in the morning=when morning came|at sunrise|early in the morning
best friend=dear friend|closest friend|best friend
ran home=hurried home|ran all the way home|ran straight home
a long time(?! ago)=a long, long time|quite a while|a very long time
so much fun=a lot of fun|such fun
would not=did not want to|would never
began to=started to
started right away=got to work at once|began at once
was very proud=was so proud|felt very proud
came by=walked by|came along|passed by
very slowly=slowly and carefully|bit by bit|little by little
everybody=everyone
everyone=everybody
shouted=cried out|called out|yelled
sat down=took a seat|sat
at last=finally|in the end|at long last
all alone=quite alone|alone
laughed out loud=laughed and laughed|had to laugh|giggled
looked around(?=[.,])=looked here and there|looked in every corner|turned around
said sadly=said with a sad face|said in a sad voice
what is wrong=what is the matter|why are you so sad
big smile=wide smile|happy smile|bright smile
wonderful=lovely|great|marvelous
after that=since that day|from then on|from that day on
it smelled so good=it smelled wonderful|what a good smell
went on=kept going|carried on
got up=stood up|jumped up
so happy=very happy|filled with joy|overjoyed
right away=at once|quickly
far away=a long way off|far, far away
in a small voice=softly|in a tiny voice|very quietly
walked away=went off|turned and walked off
did not know what to say=had no words|said nothing at first
for a long time=for quite some time|for a good while
but nobody was there=but there was nobody
nobody was there=no one was there|it was empty
had an idea=had a clever idea|got an idea|had a plan
could not believe=could hardly believe
did not stop=would not stop|kept on going
looked up(?=[.,])=glanced up
very quiet(?=[.,!])=as quiet as a mouse|so quiet
just then=at that very moment|right then
gave it water=watered it|brought it water
all day(?! long)=the whole day|all day long
every day=each day
was right(?=[.!])=had been right
and the day after that=and the day after, and the one after that
began to cry=started to cry|burst into tears
i will help you(?=[.,])=let me help you|i can help you
do not worry(?=[.,])=do not be sad|it will be all right|never mind
do not give up(?=[.,])=keep trying|never give up
let us look for it=we will look for it
it worked=it really worked|and it worked
in the evening=when evening came|as the sun went down
together they=side by side they|the two of them
was gone=had disappeared
very sorry=so sorry|really sorry
tried again(?! and)=tried once more|gave it another try
do not be afraid(?=[.,])=do not be scared|you are safe with me
the best=the very best|the finest
warm and bright=bright and warm|sunny and warm
loved it very much=loved it so much
it was dark=it was very dark|it was pitch dark
i am sorry=i am so sorry|i am very sorry|please forgive me
(?<=")thank you(?=[.,!])=thank you very much|thanks a lot|many thanks"""
CONTRACTIONS = """do not=don't
does not=doesn't
did not=didn't
cannot=can't
could not=couldn't
was not=wasn't
is not=isn't
will not=won't
would not=wouldn't
were not=weren't
let us(?= \\w)=let's
i am(?= \\w)=I'm
i will(?= \\w)=I'll
it is(?= \\w)=it's
you are(?= \\w)=you're
we are(?= \\w)=we're
that is(?= \\w)=that's
i have(?= (?:found|never|got))=I've"""

# ------------------------------------------------------------------------------------ machinery

NIGHTS = "one night, |late one night, |one dark night, |it was late at night. |one summer night, |"
WINTERS = "one winter morning,|one cold day,|it was winter.|one cold morning,"
FIRST = {
    "night": NIGHTS,
    "winter": WINTERS,
    "plain": "one day, |one morning, |one afternoon, ",
    "none": "",
}
PLOT_OF_KIND = {"dragon": "dragon_fire", "robot": "robot_feel"}
FEMALE = {"hen", "cow", "ladybug", "princess", "fairy"}
MALE = {"prince", "knight", "wizard", "giant"}
SPEECH = "said|asked|cried|shouted|called|whispered|thought|wondered|yelled|cheered"
SYLLABLES = words("""ba be bo da de do fi fo ga ka ki la li lo lu ma mi mo na ni no pa po ra ri ro
sa so ta ti to va vi wo za zo""")


@functools.cache
def parse(template):
    """A template as a tuple of strings and, for [a|b], lists of such tuples."""
    parts, _ = _parse(re.sub(r"\s*\|\s*", "|", " ".join(template.split())), 0, "")
    return parts


def _parse(text, i, closing):
    """Parse alternatives from text[i:] until `closing`; at the top "|" separates nothing."""
    options, parts, start = [], [], i
    while i < len(text) and text[i] != closing:
        if text[i] == "[":
            parts.append(text[start:i])
            inner, i = _parse(text, i + 1, "]")
            parts.append(inner)
            start = i + 1
        elif text[i] == "|" and closing:
            options.append((*parts, text[start:i]))
            parts, start = [], i + 1
        i += 1
    last = (*parts, text[start:i])
    return ([*options, last], i) if closing else (last, i)


def choose(parts, rng):
    """One string out of a parsed template."""
    return "".join(p if isinstance(p, str) else choose(rng.choice(p), rng) for p in parts)


@functools.cache
def options(text):
    """The alternatives of a list such as RULES["sad"], those inside brackets left alone."""
    return [o.strip() for o in re.split(r"\|(?![^\[]*\])", " ".join(text.split()))]


def fill(template, world, rng):
    """Expand choices, <rules> and {words} until nothing is left to expand."""
    text = choose(parse(template), rng)
    while "<" in text or "{" in text or "[" in text:
        text = re.sub(r"<(\w+)>", lambda m: rng.choice(options(RULES[m[1]])), text)
        text = choose(parse(text), rng)
        text = re.sub(r"\{(\w+)\}", lambda m: world[m[1]], text)
    return text


def polish(text):
    """Spaces, a/an, capitals: what the plots need not care about."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\b([Aa]) (?=[aeiou])(?!uni|one\b|use)", r"\1n ", text)
    text = re.sub(r"^\"?[a-z]|[.!?] \"?[a-z]|\.\" \"?[a-z]|[.!?\"] \"[a-z]", _upper, text)
    says = rf"(?:{SPEECH}|went|laughed (?!and))\b|(?:[\w'-]+ ){{1,4}}(?:{SPEECH})\b"
    return re.sub(rf"[!?]\" (?!{says})\"?[a-z]", _upper, text)


def _upper(match):
    return match[0][:-1] + match[0][-1].upper()


def table(text):
    """Lines of old=new|new as [(compiled old, [new, ...])]."""
    rows = (line.rsplit("=", 1) for line in text.split("\n"))
    return [(re.compile(rf"\b{old}\b", re.I), new.split("|")) for old, new in rows]


SWAP_TABLE, CONTRACTION_TABLE = table(SWAPS), table(CONTRACTIONS)


def rephrase(text, world, rng):
    """Say some things in other words; half of the stories use contractions."""
    swaps = [swap for swap in SWAP_TABLE if rng.random() < 0.5]
    for old, new in swaps + (CONTRACTION_TABLE if rng.random() < 0.5 else []):
        text = old.sub(functools.partial(_swap, new=new, world=world, rng=rng), text)
    return text


def _swap(match, new, world, rng):
    """One of the `new` wordings, with the capital that the old one had."""
    words = fill(rng.choice(new), world, rng)
    return words[0].upper() + words[1:] if match[0][0].isupper() else words


def invented_name(rng):
    """A name nobody has: it teaches the model to copy names that it never saw."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 3)))).capitalize()


def pronouns(prefix, words):
    return {prefix + key: value for key, value in words.items()}


def pick(names, rng, flat):
    """One of `names`: the first are common and the last rare, as in life, unless `flat`."""
    return rng.choice(names) if flat else names[int((len(names) + 1) ** rng.random()) - 1]


def character(rng, wild, taken, flat=False):
    """Somebody: name, kind, trait, pronouns, and the words to call them by.

    wild: the chance of an animal or a creature instead of a child.  taken: who is there already.
    """
    if rng.random() >= wild:
        words = rng.choice((HE, SHE))
        if taken and rng.random() < 0.8:  # two "he" in one story are hard to tell apart
            words = SHE if taken["he"] == "he" else HE
        kind, traits = words["boy"], CHILD_TRAITS
        name = pick(GIRLS if words is SHE else BOYS, rng, flat)
        named = True
    else:
        kind = pick(FANTASY if rng.random() < 0.35 else ANIMALS, rng, flat)
        words = SHE if kind in FEMALE else HE if kind in MALE else rng.choice((HE, SHE))
        traits = ANIMAL_TRAITS
        name = pick(PET_NAMES + (GIRLS if words is SHE else BOYS)[:20], rng, flat)
        named = rng.random() < 0.55
    if rng.random() < (0.1 if flat else 0.05):
        name = invented_name(rng)
    trait = rng.choice(traits)
    who = {"name": name, "named": named, "kind": kind, "trait": trait, **words}
    who["a_kind"] = f"a {trait} {kind}"
    if named:
        a_ref = f"a {trait} {kind} {rng.choice(('named', 'called'))} {name}"
        who.update(ref=name, voc=name, a_ref=a_ref)
    else:
        short = f"the little {kind}" if trait == "little" else f"the {kind}"
        who.update(ref=short, voc=f"little {kind}", a_ref=f"a {trait} {kind}")
    if taken and (name == taken["name"] or (not named and kind == taken["kind"])):
        return character(rng, wild, taken, flat)
    return who


def make_world(rng, flat=False):
    """Everybody and everything of one story, as words for {slots}."""
    hero = character(rng, 0.42, None, flat)
    child = hero["kind"] in ("boy", "girl")
    friend = character(rng, 0.2 if child else 0.75, hero, flat)
    kin, she, evoc = rng.choice(options(ELDERS)).split(":")
    elder = SHE if she == "she" else HE
    look = rng.choice(COLOURS if rng.random() < 0.6 else LOOKS)
    noun = rng.choice(THINGS).replace("_", " ")
    foods, likes = rng.sample(options(FOODS), 2), rng.sample(options(LIKES), 2)
    world = {**hero, **pronouns("f", friend), **pronouns("e", elder)}
    world.update(
        hero=hero["ref"],
        a_hero=hero["a_ref"],
        friend=friend["ref"],
        friend1=f"{hero['his']} friend {friend['ref']}",
        a_friend=friend["a_ref"],
        elder=f"{hero['his']} {kin}",
        kin=kin,
        evoc=evoc,
        king="king" if hero["he"] == "he" else "queen",
        adj=look,
        noun=noun,
        thing=f"{look} {noun}",
        a_thing=f"a {look} {noun}",
        the_thing=f"{hero['his']} {look} {noun}",
        food=foods[0],
        food2=foods[1],
        like=likes[0],
        like2=likes[1],
        colour=rng.choice(COLOURS),
        at_place=rng.choice(options(PLACES)),
        town=rng.choice(options(TOWNS if child else WILD_TOWNS)),
        pet_name=rng.choice([n for n in PET_NAMES if n != hero["name"]]),
    )
    world["weather_line"] = rng.choice(options(RULES["weather"]))
    return world


def set_words(directives, world, rng):
    """Carry out the @ lines of a plot."""
    for line in directives:
        names, values = (part.strip() for part in line[1:].split("=", 1))
        if "," in names:
            names = [n.strip() for n in names.split(",")]
            chosen = rng.sample(options(values), len(names))
        else:
            names = names.split("/")
            chosen = rng.choice(options(values)).split("/", len(names) - 1)
        for name, value in zip(names, chosen, strict=True):
            world[name] = value
            world["the_" + name] = re.sub(r"^an? ", "the ", value)


@functools.cache
def split_plot(name):
    """(directives, paragraphs) of a plot."""
    head, paragraphs = [], []
    for block in PLOTS[name].strip().split("\n\n"):
        lines = block.split("\n")
        while lines and (lines[0].startswith("@") or (head and lines[0].startswith("  "))):
            line = lines.pop(0)
            if line.startswith("@"):
                head.append(line)
            else:
                head[-1] += ("" if line.strip().startswith("|") else " ") + line.strip()
        paragraphs.append(" ".join(lines))
    return head, paragraphs


def suits(text, plot, world):
    """Whether an intro or a detail fits the hero and what the plot is going to tell."""
    if "{friend}" in text and ("{a_friend}" in plot or "{friend" not in plot):
        return False
    by_name = re.search(r"(named|called) (\{friend\}|\{hero\})|and \{friend\}\.|\[called", text)
    if by_name and not world["fnamed"]:
        return False
    owned = re.search(r"\{his\} (\{thing\}|\{noun\})|\{hero\}'s \{(thing|noun)\}", plot)
    if "thing}" in text and (not owned or "{a_thing}" in plot or "@gift" in plot):
        return False
    if not world["named"] and re.match(r"\{hero\}|do you know|once there were", text):
        return text.startswith(("{hero} l", "{hero} had {a_thing}")) and "lived" not in text
    return True


def opening(plot, start, world, rng):
    """The first sentences, up to where the plot begins; sets {hero1}."""
    world["hero1"] = world["hero"]
    first = fill(rng.choice(options(FIRST.get(start, STARTS))), world, rng) + " "
    if rng.random() < 0.25:
        if not first or rng.random() < 0.5 or start == "none":
            world["hero1"] = rng.choice((world["a_hero"], world["hero"]))
        return first

    text = rng.choice([i for i in INTROS.split("\n") if suits(i, plot, world)])
    details = [d for d in DETAILS.split("\n") if suits(d, plot, world)]
    for detail in rng.sample(details, rng.choice((0, 0, 1, 1, 1, 2))):
        if "{friend}" in text:
            detail = detail.replace("{he}", "{hero}", 1)
        used = re.findall(r"\{(?:like|kin|town|a_thing|friend)\}", detail)
        if not any(word in text for word in used):
            text += " " + detail
    if "{friend}" in text:
        world["friend1"] = world["friend"]
    return fill(text, world, rng) + rng.choice((" ", "\n")) + first


def tell(name, world, rng):
    """The plot of that name, told in that world.  Chooses the plot's own words as it goes."""
    plot, (directives, paragraphs) = PLOTS[name], split_plot(name)
    start = next((d.split("=")[1].strip() for d in directives if d.startswith("@start")), "")
    set_words([d for d in directives if not d.startswith("@start")], world, rng)
    about_thing = re.search(r"\{(thing|noun)\}", plot)
    world["dream"] = world["the_thing"] if about_thing else "tomorrow"
    beginning = opening(plot, start, world, rng)
    texts = [fill(p, world, rng) for p in paragraphs]
    ending = fill(rng.choice(options(ENDINGS)), world, rng)
    lines = [beginning + texts[0], *texts[1:-1], f"{texts[-1]} {ending}"]
    text = rephrase(rng.choice(("\n", "\n", "\n", " ")).join(lines), world, rng)
    return "\n".join(polish(line) for line in text.split("\n"))


def story(rng, flat=False):
    """One story of 120 to 250 words as text, paragraphs separated by newlines.

    flat: every name and animal is as likely as the next.

    >>> story(random.Random(1)) == story(random.Random(1))
    True
    """
    name = rng.choice([p for p in PLOTS if p not in PLOT_OF_KIND.values()])
    world = make_world(rng, flat)
    if rng.random() < 0.4:
        name = PLOT_OF_KIND.get(world["kind"], name)
    if "{name}" in PLOTS[name] and not world["named"]:
        return story(rng, flat)
    return tell(name, world, rng)


def main():
    parser = argparse.ArgumentParser(description="Write short stories for children.")
    parser.add_argument("--count", type=int, default=3, help="how many stories (3)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same stories (0)")
    args = parser.parse_args()
    for number in range(args.count):
        print(story(random.Random(f"{args.seed}/{number}")), end="\n\n")


if __name__ == "__main__":
    main()
