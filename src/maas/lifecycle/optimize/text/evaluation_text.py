"""Default text and prompts to compare language models on.

They were written for this purpose, in several styles, so that the loss of one style shows. Every
figure depends on them: any change of a letter changes the digest in the evidence.
"""

TEXT = """\
The harbor was quiet in the early morning. Two fishing boats lay against the stone wall, and a man \
in a blue coat walked slowly from one to the other, looking at the ropes. He had done this every \
day for thirty years. When the wind came from the west, the ropes had to be longer; when it came \
from the north, it was better to pull them tight and to put another one around the iron ring. \
Nobody had ever written this down. He had learned it from his father, and his father had learned \
it from the sea.

Water boils at one hundred degrees Celsius when the pressure of the air is that at sea level. On a \
high mountain the pressure is lower, and water boils earlier, so that potatoes take longer to \
cook there. A pressure cooker does the opposite: it keeps the steam inside, the pressure rises, \
and the water becomes hotter than it could in an open pot. The same idea is used in hospitals, \
where instruments are cleaned with steam under pressure.

To make a simple bread you need five hundred grams of flour, three hundred and fifty grams of \
water, ten grams of salt and a little yeast. Mix everything in a bowl until no dry flour is left. \
Cover the bowl and wait for twelve hours. Then fold the dough four times, let it rest for half an \
hour, and put it into a hot pot with a lid. Bake it for thirty minutes with the lid and for \
fifteen minutes without. Let the bread cool before you cut it, even if that is the hardest part.

"I don't think we should go in there," said Anna. Her brother had already opened the door. "It's \
only an old library," he answered, "and it's raining." Inside it smelled of dust and of paper. A \
single lamp burned on a table at the far end of the room, and beside it lay an open book. "Someone \
was here a minute ago," Anna whispered. "The lamp is still warm." Tom laughed, but he laughed very \
quietly, and he did not let go of the door.

def mean(values):
    # The arithmetic mean of a list of numbers.
    if not values:
        raise ValueError("mean of an empty list")
    total = 0.0
    for value in values:
        total += value
    return total / len(values)

def variance(values):
    center = mean(values)
    return mean([(value - center) ** 2 for value in values])

The first railways were built to move coal from the mines to the rivers. Horses pulled the wagons \
over wooden rails, and later over rails of iron. When steam engines became small enough to move \
themselves, the horse was no longer needed, and within a few decades towns that had been two days \
apart were two hours apart. Timetables made it necessary that all clocks of a country show the \
same time. Until then, noon had been when the sun stood highest, and every town had its own.

Dear Mrs. Miller, thank you for your letter of 3 March. We are sorry to hear that the lamp that \
you ordered arrived with a broken switch. Please keep the lamp. A new one will be sent to you this \
week without any cost. If you would rather have your money back, let us know by phone or by email, \
and we will return the full price of 49 dollars within five working days. We apologize for the \
trouble and hope that you will enjoy your new lamp. Kind regards, the service team.

The human heart beats about one hundred thousand times a day. It has four chambers: two that \
receive blood and two that send it out. The right side sends blood to the lungs, where it takes up \
oxygen, and the left side sends it to the rest of the body. Between the chambers there are valves, \
which open in one direction only. What a doctor hears through a stethoscope is not the muscle \
itself but the closing of these valves.

Question: A train leaves at 9:15 and arrives at 11:40. How long does the journey take? Answer: \
From 9:15 to 11:15 it is two hours, and from 11:15 to 11:40 it is another 25 minutes. The journey \
takes two hours and 25 minutes. Question: A shirt costs 40 dollars and is reduced by 15 percent. \
What is the new price? Answer: Fifteen percent of 40 dollars are 6 dollars. The new price is \
34 dollars.

A good neighbor is worth more than a high fence. In our street there are eleven houses, and in \
winter whoever wakes up first clears the snow from the whole pavement. There has never been a \
list. Some people wake up first more often than others, and they say that they like the silence. \
In summer the same people get the first cherries. That has never been on a list either.

The contract begins on the first of January and ends after two years. Either party may end it \
earlier with a notice of three months in writing. The tenant pays the rent on the third working \
day of each month at the latest. Small repairs up to a value of one hundred euros are paid by the \
tenant, all others by the owner. Animals may be kept with the consent of the owner, which may only \
be refused for an important reason.

Light from the sun takes a little more than eight minutes to reach the earth. Light from the next \
star takes more than four years. When we look at the sky at night, we therefore look into the \
past, and deeper into it the farther we look. Some of the stars that we see may no longer exist. \
Astronomers use this: to learn how galaxies looked when the universe was young, they search for \
those that are farthest away, and whose light has been on its way for more than ten billion years.

Once upon a time there was a fox who wanted to be the king of the forest. He put on a red cloak \
and a paper crown, climbed on a rock and called all the animals. The bear came, and the deer, and \
the small gray mice. "From today on," said the fox, "you will bring me breakfast." The bear looked \
at him for a long time. Then it began to rain. The paper crown became soft, then it fell over the \
fox's eyes, and the animals went home to have their own breakfast.

Our company grew in the third quarter. Revenue rose by eight percent to 412 million, and profit by \
five percent to 37 million. Growth was strongest in Asia, where two new plants were opened in the \
spring. Costs for energy were higher than in the year before; they are expected to fall in the \
coming months. The board confirms its forecast for the full year and will propose a dividend of \
1.20 per share at the annual meeting.

To change a tire, first stop at a safe place and switch on the warning lights. Loosen the nuts \
half a turn while the wheel is still on the ground. Then place the jack under the point that the \
manual shows, and lift the car until the wheel turns freely. Remove the nuts and the wheel, put on \
the spare one, and tighten the nuts crosswise by hand. Lower the car, and only then tighten the \
nuts fully. Check the pressure at the next station, and tighten the nuts again after fifty miles.

She had expected the city to be loud, and it was, but not in the way that she had thought. It was \
not the cars. It was the voices: in the stairwell, behind the walls, on the telephone, from the \
open windows of the kitchens. Everyone seemed to be in the middle of a story. After a week she \
noticed that she had begun to tell one herself, to the woman in the bakery, about the village and \
about the dog that used to wait for the bus.

An algorithm is a list of steps that always leads to a result. To find a word in a dictionary, one \
could read every page from the first to the last. It is faster to open the book in the middle and \
to ask whether the word comes before or after. Half of the pages can then be forgotten. With every \
such question the part that is left becomes half as large, so that for a book with a thousand \
pages ten questions are enough. This method is called binary search, and it only works because the \
words are in order.

Bees do not only make honey. While they collect nectar they carry pollen from one flower to the \
next, and without this many plants would bear no fruit. A colony in summer has about forty \
thousand workers, a few hundred males and one queen. A bee that has found a good place tells the \
others by a dance: the direction of the dance shows the direction to fly, and the longer it takes, \
the farther the flowers are away.

The weather for the weekend: On Saturday it will be cloudy in the north, with some rain along the \
coast and temperatures between 12 and 15 degrees. In the south the sun will shine for most of the \
day, and it will reach 21 degrees. On Sunday a cold front will arrive from the west. Strong winds \
are expected in the mountains in the evening, and snow is possible above two thousand meters. From \
Monday on it will be dry and clear again.
"""

PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Name three animals that live in the sea.",
    "How do I boil an egg?",
    "Write one sentence about the moon.",
    "What is 17 plus 25?",
    "Explain what a computer program is.",
    "Translate into Spanish: Good morning, my friend.",
    "Write a short poem about autumn.",
    "What is the difference between a lake and a river?",
    "Give me a name for a small bakery.",
    "Who wrote the play Romeo and Juliet?",
    "List the days of the week.",
    "How can I fall asleep more easily?",
    "Write a polite email that asks for a day off.",
    "What do plants need to grow?",
    "Is a tomato a fruit or a vegetable?",
    "Write a Python function that adds two numbers.",
    "Tell me about the city of Rome.",
    "What should I pack for a trip to the mountains?",
    "Finish the sentence: The early bird",
    "How many minutes are in two hours?",
    "Describe the color red to somebody who cannot see.",
    "What is gravity?",
)
