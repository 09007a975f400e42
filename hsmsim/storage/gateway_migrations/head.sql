CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0008');
CREATE TABLE cloudhsm_backups (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	state TEXT NOT NULL, 
	hsm_type TEXT NOT NULL, 
	mode TEXT NOT NULL, 
	certificate TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	due FLOAT NOT NULL, 
	created FLOAT NOT NULL, 
	delete_at FLOAT NOT NULL, 
	cluster TEXT NOT NULL, 
	never_expires BOOLEAN NOT NULL, 
	image BOOLEAN NOT NULL, sequence INTEGER DEFAULT 0 NOT NULL, source_backup TEXT DEFAULT '' NOT NULL, source_region TEXT DEFAULT '' NOT NULL, source_cluster TEXT DEFAULT '' NOT NULL, copied FLOAT DEFAULT '0' NOT NULL, restored FLOAT DEFAULT '0' NOT NULL, loose BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE cloudhsm_clusters (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	state TEXT NOT NULL, 
	message TEXT NOT NULL, 
	hsm_type TEXT NOT NULL, 
	mode TEXT NOT NULL, 
	source_backup TEXT NOT NULL, 
	vpc TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	subnets TEXT NOT NULL, 
	certificates TEXT NOT NULL, 
	signed TEXT NOT NULL, 
	anchor TEXT NOT NULL, 
	target TEXT NOT NULL, 
	former TEXT NOT NULL, 
	former_image TEXT NOT NULL, 
	due FLOAT NOT NULL, 
	created FLOAT NOT NULL, 
	rollback_until FLOAT NOT NULL, 
	ended FLOAT NOT NULL, 
	retention INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE cloudhsm_hsms (
	id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	message TEXT NOT NULL, 
	hsm_type TEXT NOT NULL, 
	zone TEXT NOT NULL, 
	subnet TEXT NOT NULL, 
	eni TEXT NOT NULL, 
	ip TEXT NOT NULL, 
	backup TEXT NOT NULL, 
	image TEXT NOT NULL, 
	replaces TEXT NOT NULL, 
	due FLOAT NOT NULL, 
	created FLOAT NOT NULL, 
	cluster TEXT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(cluster) REFERENCES cloudhsm_clusters (id)
);
CREATE TABLE cloudhsm_tags (
	resource TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (resource, "key")
);
CREATE TABLE cloudtrail_events (
	sequence INTEGER NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	time FLOAT NOT NULL, 
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	source TEXT NOT NULL, 
	read_only BOOLEAN NOT NULL, 
	username TEXT NOT NULL, 
	access_key TEXT NOT NULL, 
	resources TEXT NOT NULL, 
	body TEXT NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE ec2_groups (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	vpc TEXT NOT NULL, 
	name TEXT NOT NULL, 
	description TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (vpc, name), 
	FOREIGN KEY(vpc) REFERENCES ec2_vpcs (id)
);
CREATE TABLE ec2_interface_groups (
	interface TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	place INTEGER NOT NULL, 
	PRIMARY KEY (interface, "group"), 
	FOREIGN KEY(interface) REFERENCES ec2_interfaces (id), 
	FOREIGN KEY("group") REFERENCES ec2_groups (id)
);
CREATE TABLE ec2_interfaces (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	subnet TEXT NOT NULL, 
	address TEXT NOT NULL, 
	mac TEXT NOT NULL, 
	description TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	requester TEXT NOT NULL, 
	attachment TEXT NOT NULL, 
	source_check BOOLEAN NOT NULL, 
	token TEXT, 
	digest TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (subnet, address), 
	UNIQUE (account, region, token), 
	FOREIGN KEY(subnet) REFERENCES ec2_subnets (id)
);
CREATE TABLE ec2_regions (
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	dhcp TEXT NOT NULL, 
	PRIMARY KEY (account, region)
);
CREATE TABLE ec2_rules (
	id TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	egress BOOLEAN NOT NULL, 
	protocol TEXT NOT NULL, 
	first INTEGER NOT NULL, 
	last INTEGER NOT NULL, 
	cidr4 TEXT NOT NULL, 
	cidr6 TEXT NOT NULL, 
	peer TEXT NOT NULL, 
	description TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE ("group", egress, protocol, first, last, cidr4, cidr6, peer), 
	FOREIGN KEY("group") REFERENCES ec2_groups (id)
);
CREATE TABLE ec2_subnets (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	vpc TEXT NOT NULL, 
	zone TEXT NOT NULL, 
	cidr TEXT NOT NULL, 
	"default" BOOLEAN NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(vpc) REFERENCES ec2_vpcs (id)
);
CREATE TABLE ec2_tags (
	resource TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	PRIMARY KEY (resource, "key")
);
CREATE TABLE ec2_vpcs (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	region TEXT NOT NULL, 
	cidr TEXT NOT NULL, 
	association TEXT NOT NULL, 
	"default" BOOLEAN NOT NULL, 
	tenancy TEXT NOT NULL, 
	dns_support BOOLEAN NOT NULL, 
	dns_hostnames BOOLEAN NOT NULL, 
	usage_metrics BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE iam_accounts (
	id TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE iam_attached (
	entity TEXT NOT NULL, 
	policy_arn TEXT NOT NULL, 
	PRIMARY KEY (entity, policy_arn), 
	FOREIGN KEY(entity) REFERENCES iam_entities (id)
);
CREATE TABLE iam_changes (
	sequence INTEGER NOT NULL, 
	thing TEXT NOT NULL, 
	name TEXT NOT NULL, 
	PRIMARY KEY (sequence)
);
CREATE TABLE iam_entities (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	name TEXT NOT NULL, 
	path TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	boundary TEXT NOT NULL, 
	trust TEXT NOT NULL, 
	description TEXT NOT NULL, 
	max_session INTEGER NOT NULL, 
	service TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (account, kind, "key")
);
CREATE TABLE iam_inline (
	entity TEXT NOT NULL, 
	name TEXT NOT NULL, 
	document TEXT NOT NULL, 
	PRIMARY KEY (entity, name), 
	FOREIGN KEY(entity) REFERENCES iam_entities (id)
);
CREATE TABLE iam_keys (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	sealed BLOB NOT NULL, 
	active BOOLEAN NOT NULL, 
	created FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE iam_members (
	group_id TEXT NOT NULL, 
	user_id TEXT NOT NULL, 
	PRIMARY KEY (group_id, user_id), 
	FOREIGN KEY(group_id) REFERENCES iam_entities (id), 
	FOREIGN KEY(user_id) REFERENCES iam_entities (id)
);
CREATE TABLE iam_policies (
	id TEXT NOT NULL, 
	account TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	name TEXT NOT NULL, 
	path TEXT NOT NULL, 
	description TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	updated FLOAT NOT NULL, 
	"default" INTEGER NOT NULL, 
	next INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (account, "key")
);
CREATE TABLE iam_tags (
	owner TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (owner, "key")
);
CREATE TABLE iam_versions (
	policy TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	document TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	PRIMARY KEY (policy, number), 
	FOREIGN KEY(policy) REFERENCES iam_policies (id)
);
CREATE TABLE settings (
	name TEXT NOT NULL, 
	value BLOB NOT NULL, 
	PRIMARY KEY (name)
);
CREATE INDEX ix_iam_attached_policy_arn ON iam_attached (policy_arn);
CREATE INDEX ix_iam_keys_owner ON iam_keys (owner);
CREATE INDEX cloudtrail_lookup ON cloudtrail_events (account, region, time, sequence, id, name, source, read_only, username, access_key, resources);
CREATE INDEX ix_ec2_subnets_vpc ON ec2_subnets (vpc);
CREATE INDEX ix_ec2_rules_peer ON ec2_rules (peer);
CREATE INDEX ix_ec2_interface_groups_group ON ec2_interface_groups ("group");
CREATE INDEX ix_cloudhsm_hsms_cluster ON cloudhsm_hsms (cluster);
CREATE INDEX ix_cloudhsm_backups_cluster ON cloudhsm_backups (cluster);
