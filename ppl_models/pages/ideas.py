"""What problem each paper of the catalogue sets out from, and its idea, in plain words.

A card says what its sites mean and what is special to this pair; here stands what somebody wants
to know who has not read the paper. A test asks for an entry of every paper.
"""

from __future__ import annotations

# Name -> the problem, the idea.
IDEAS: dict[str, tuple[str, str]] = {
    "vae": (
        "Models with a continuous latent vector for each row have posteriors that cannot be "
        "written down, and sampling each row's anew is slow.",
        "One network, the encoder, guesses the posterior of every row, and is trained together "
        "with the decoder by gradients through its own draws.",
    ),
    "cr_vae": (
        "An encoder may say quite different things of an image and of the same image turned or "
        "moved a little, though nothing that matters has changed.",
        "Train on images and moved copies alike, and charge for how far the two posteriors are "
        "apart.",
    ),
    "s_vae": (
        "Some data lie on circles and spheres, and a Normal prior, which draws codes towards the "
        "origin, has no place for them.",
        "Make the code a direction: a uniform prior on the sphere, and a posterior that is a "
        "bump on it, the von Mises-Fisher distribution.",
    ),
    "m1": (
        "Labels are few and rows are many; a classifier of raw rows learns from the labelled "
        "ones alone.",
        "Learn codes from all rows first, by a VAE, and then a small classifier that reads the "
        "codes of the labelled ones.",
    ),
    "m2": (
        "Labels are few and rows are many; the unlabelled rows should teach the classifier, too.",
        "Let the class be a latent variable beside a style. Where it is known it is observed; "
        "where it is missing it is summed out, weighted by the classifier, which so learns from "
        "every row.",
    ),
    "m1m2": (
        "M2 has to explain pixels by class and style in one step, and M1 learns its codes without "
        "looking at a label.",
        "Stack them: class and style explain the codes that M1 has learnt, and these explain "
        "the row.",
    ),
    "partially_specified": (
        "A guide has a fixed order of its sites, and with it what may be observed: M2's needs the "
        "label before the code.",
        "Weigh draws of the code by how well they agree with an observed label, so that a guide "
        "of any shape can be trained with labels anywhere in it.",
    ),
    "faces": (
        "To tell who is in a picture the light has to be taken away, and few pictures say who "
        "or how it is lit.",
        "Let the decoder know how light falls on a surface: identity gives normals and colour, "
        "the light is three numbers, and what is known of either is observed.",
    ),
    "multi_digits": (
        "Scenes hold an unknown number of objects, and it is told for a few scenes only.",
        "Let the story say how many there are and where each stands, cut each object out in the "
        "guide, and sum the number out where it is not known.",
    ),
    "mmdgm": (
        "Models that explain data well often classify badly, as nothing asks that of their codes.",
        "Read the encoder's features by a max-margin classifier, and train bound and hinge loss "
        "together.",
    ),
    "mmdcgm": (
        "Summing a missing class out costs a decoder's pass for every class.",
        "Take the class that a max-margin classifier likes best, and push its margin on rows "
        "without labels, too.",
    ),
    "chroma_vae": (
        "Classifiers take shortcuts, such as a patch in the corner that goes with the class in "
        "training alone.",
        "Let only a small part of the code feed the label, which the shortcut fills up; the rest "
        "of the code is free of it, and a second classifier reads that.",
    ),
    "bayesian_ssl": (
        "With few labels a network of labels is sure of too much, and there is no telling which "
        "row to ask for next.",
        "Give the weights of the network from code to label a posterior, and ask for the rows on "
        "which draws of it disagree.",
    ),
    "clsvae": (
        "Some rows are damaged in a systematic way, which a model of all rows learns to "
        "reproduce.",
        "Explain every row by a clean code, and damaged ones by a dirty code beside it; a few "
        "labelled outliers tell the two apart, and repair draws the row from the clean code.",
    ),
    "p3vae": (
        "What a sensor sees hangs on the light, for which there is a formula, and on the "
        "material, for which there is none.",
        "Put the formula into the decoder and leave the rest to networks, so that the code of "
        "the light has a physical meaning and other light is no surprise.",
    ),
    "ccvae": (
        "A label such as a smile is yes or no, but there are many ways to smile.",
        "Behind each label stands a code of its own, from which alone the label is told; "
        "changing a label draws this code anew and leaves all else as it is.",
    ),
    "deepscm": (
        "What would this very image have been, had one of its causes been another?",
        "Make every variable of its parents and a noise by mechanisms that can be inverted: "
        "tell the noise of the row, set the cause, and run the mechanisms again.",
    ),
    "imagecfgen": (
        "Is a classifier's answer caused by an attribute that should not matter?",
        "Train generator and encoder of images with known causes by a critic, and compare the "
        "answers for an image and for its counterfactuals.",
    ),
    "dear": (
        "Codes that should stand for factors are taken to be independent, while the factors "
        "cause one another.",
        "Give the code a linear causal model as its prior, learn it with few labelled rows and "
        "match codes and images by a critic.",
    ),
    "svae_plus": (
        "Cells are perturbed in many ways, and one wants to know what each perturbation does.",
        "Let each perturbation shift only a few latents of the cell; which ones is learnt, with "
        "a prior that prefers few.",
    ),
    "citris_nf": (
        "A trained autoencoder mixes the causal variables of a scene in its codes.",
        "Bend its codes by a flow into blocks of latents; over time, each block has to change "
        "with the interventions on one variable and with no others.",
    ),
    "citris_vae": (
        "Which latents of a video belong to which causal variable, if it is known only which "
        "were set between two frames?",
        "Assign each latent to a variable, and let its next value depend on whether this variable "
        "was set: the assignment that predicts best is the right one.",
    ),
    "cmi": (
        "Attributes are correlated in training, and the correlation will change; codes that "
        "use it will fail.",
        "Give each attribute a part of the code, and make the parts independent given the "
        "attribute, not independent outright, which correlated attributes cannot be.",
    ),
    "cluster_ica": (
        "Two runs of the same model find different codes; theory mends that by side information, "
        "which one may not have.",
        "Let the model find clusters of its own in the codes: they do the work of side "
        "information.",
    ),
    "beta_vae": (
        "Codes of a VAE mix the factors of the data, each number something of all.",
        "Charge more for the code: with a KL that counts beta times, each number has to earn its "
        "place, and tends to take one factor.",
    ),
    "factor_vae": (
        "A heavier KL makes codes independent, and images blurred.",
        "Charge for dependence between the numbers of the code alone; a critic that tells codes "
        "from shuffled codes measures it.",
    ),
    "beta_tcvae": (
        "Which part of the KL is it that disentangles, and which only costs reconstruction?",
        "Split it into information, dependence and shape of each number, estimate the three "
        "from a batch, and weigh the dependence alone.",
    ),
    "annealed_vae": (
        "A heavy KL gives clean factors, but few and blurred ones.",
        "Hold the KL at a capacity that grows during training, so that the code takes up one "
        "factor after the other.",
    ),
    "dip_vae": (
        "The codes of all rows together need not look like the prior, whose numbers are "
        "independent.",
        "Draw the covariance of the codes over the data to the identity: cheap, and with no "
        "price on each row's own code.",
    ),
    "hfs": (
        "Factors that are correlated in the data cannot have independent codes.",
        "Ask less: every combination of values must be possible, not equally likely. The support "
        "of the codes is drawn to the product of the supports of its numbers.",
    ),
    "overlap_vae": (
        "A VAE finds factors only where near factors give images that overlap; without overlap "
        "all images are equally far.",
        "Compare blurred images, too, so that near places are near in the loss.",
    ),
    "nashae": (
        "How many factors the data have is not known, and codes with too many numbers share "
        "them out.",
        "Predict each number of the code from the others, and train the encoder to be "
        "unpredictable: what is superfluous falls silent.",
    ),
    "guided_vae": (
        "Without labels a coordinate means nothing; with few, one wants it to mean just that.",
        "Helpers that are thrown away after training guide it: a decoder that scales and turns a "
        "shape, or classifiers that read one coordinate and may not read the others.",
    ),
    "mvae": (
        "Rows have several modalities, and any of them may be missing.",
        "Each modality has an expert on the code, and what they say is multiplied; experts of "
        "missing modalities are left out.",
    ),
    "mmvae": (
        "A product of experts listens to the surest one, so that a modality alone says little "
        "of the others.",
        "Take a mixture: each modality alone must give a code that explains all of them.",
    ),
    "mopoe": (
        "Products of experts lose single modalities, mixtures lose what several say together.",
        "Mix the products over all subsets of the modalities.",
    ),
    "meme": (
        "Rows that lack a modality are to teach something of it, too.",
        "Let the encoder of one modality be the prior of the other's code, both ways; where one "
        "is missing, learnt rows stand in for it.",
    ),
    "hfsgm": (
        "A few examples of something new are given, and more of the same are wanted.",
        "A hierarchy of contexts tells what the elements of a set share, and codes what each has "
        "for itself; contexts and codes are drawn in turns.",
    ),
    "scha_vae": (
        "One vector is a narrow context for a set of images, whose parts stand somewhere.",
        "Make contexts and codes maps, from coarse to fine, and pool the elements by attention "
        "at every level.",
    ),
    "vlae": (
        "In a stack of latent layers the lowest one alone can explain the data, and the others "
        "learn nothing.",
        "Make the codes independent and let each enter the decoder at its own depth: abstract "
        "factors need depth, and go to the top.",
    ),
    "ladder_vae": (
        "Deep stacks of latent layers train badly: the upper ones collapse to their prior.",
        "Let the encoder's bottom-up guess and the story's top-down guess of each layer be "
        "combined, by precision, and warm the KL up slowly.",
    ),
}
